"""Members of tar, tar.gz and zip archives: where they lie, found without reading the rest.

Names are only names: nothing here ever writes a file. Bytes of an archive are read by offset, a few
at a time, whatever the archive claims about itself.

Unusual members:

- folders, devices and pipes are left out;
- links (symbolic and hard), sparse files, encrypted members and compression methods other than
  stored and deflate are `unsupported`;
- members of a zip that share bytes with an earlier one (as in a zip bomb) are `too-large`;
- an archive that ends early gives its complete members, then `truncated` for itself. If a zip lacks
  its directory at the end, its members are found by their own headers;
- a zip with a damaged directory gives the members before the damage, members found by their own
  headers, then `unreadable` for itself. Nothing is found behind a member that was written to a pipe,
  since only the directory has its size;
- tars joined end to end give the members of all; bytes after an end mark that are not a tar are
  `unreadable`;
- a zip's name in UTF-8 without its flag, or in Info-ZIP's extra field, gives name and label; the
  URI has the name as zipfile reads it. A backslash divides folders, but not where it is the second
  half of a letter in Shift-JIS, GBK or Big5;
- where the first member of a zip has another name in its own header, all URIs are
  `catdog://member!file`; where a later one alone has, it is `unreadable`;
- where Python's zipfile or tarfile refuse an archive for one record, the URIs of its members are
  `catdog://member!file`;
- everything after a damaged header is lost: `unreadable` for the archive itself.
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
    names_itself,
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
    "names_itself",
    "tar_members",
    "too_long_label",
    "zip_members",
]
