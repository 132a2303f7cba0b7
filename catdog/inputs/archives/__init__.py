"""Members of tar, tar.gz and zip archives: where they lie, found without reading the rest.

Names are only names: nothing here ever writes a file. An archive's bytes are read by offset, a few
at a time, whatever the archive claims about itself.

What becomes of odd members:

- folders, devices and pipes are no images and are left out;
- links (symbolic and hard), sparse files, encrypted members and compression methods other than
  stored and deflate are `unsupported`;
- members of a zip that share bytes with an earlier one (a zip bomb's way) are `too-large`;
- an archive that ends early gives the members that are whole, then `truncated` for itself. From a
  zip without its directory at the end, the members are found by their own headers;
- a zip whose directory is damaged gives the members before the damage, those that are found by
  their own headers, then `unreadable` for itself. Behind a member that was written to a pipe, whose
  size stands in the directory alone, nothing is found;
- members of tars joined end to end are all found; what follows an end mark and is no tar is
  `unreadable`;
- a zip's name in UTF-8 without its flag, or in Info-ZIP's extra field, gives name and label; the
  URI has the name as zipfile reads it;
- whatever comes after a damaged header is lost: `unreadable` for the archive itself.
"""

from catdog.inputs.archives.tar import tar_members
from catdog.inputs.archives.windows import (
    BOMB_FLOOR_BYTES,
    Bytes,
    FileBytes,
    GzipBytes,
    Member,
    too_long_label,
)
from catdog.inputs.archives.zip import (
    ZIP_LONGEST_HEADER_BYTES,
    extract_zip_member,
    zip_members,
)

__all__ = [
    "BOMB_FLOOR_BYTES",
    "ZIP_LONGEST_HEADER_BYTES",
    "Bytes",
    "FileBytes",
    "GzipBytes",
    "Member",
    "extract_zip_member",
    "tar_members",
    "too_long_label",
    "zip_members",
]
