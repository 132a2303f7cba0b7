"""Files, wherever they are: a URI comes in; bytes, names, sizes and atomic files go out.

Local files and S3 behave alike behind this door: the same errors, the same retries, the same
promise that a file appears whole or not at all. It is the only room that knows fsspec.
"""

from catdog.storage.conditional import delete_version, has_conditions, read_version, write_over
from catdog.storage.failures import (
    CredentialsError,
    StorageDownError,
    blamed_on,
    error_code,
    error_detail,
    is_of_disk,
    rejection,
)
from catdog.storage.files import (
    check_unchanged,
    delete,
    exists,
    filesystem,
    list_names,
    open_atomic,
    open_input,
    open_local,
    pread,
    read_bytes,
    read_range,
    size_and_stamp,
    stamp_of_status,
    write_atomic,
    write_new,
)
from catdog.storage.remote import PAGE_KEYS, remote_pages, remote_range
from catdog.storage.stores import Stores, chosen, for_workers
from catdog.storage.tiff_pages import (
    TIFF_ENDS,
    as_first_page,
    page_number,
    tiff_pages,
)
from catdog.storage.uris import (
    is_local,
    is_web,
    join,
    lacks_slash,
    local_path,
    member_uri,
    openable,
    page_uri,
    parse_odd,
    to_uri,
)

__all__ = [
    "PAGE_KEYS",
    "TIFF_ENDS",
    "CredentialsError",
    "StorageDownError",
    "Stores",
    "as_first_page",
    "blamed_on",
    "check_unchanged",
    "chosen",
    "delete",
    "delete_version",
    "error_code",
    "error_detail",
    "exists",
    "filesystem",
    "for_workers",
    "has_conditions",
    "is_local",
    "is_of_disk",
    "is_web",
    "join",
    "lacks_slash",
    "list_names",
    "local_path",
    "member_uri",
    "open_atomic",
    "open_input",
    "open_local",
    "openable",
    "page_number",
    "page_uri",
    "parse_odd",
    "pread",
    "read_bytes",
    "read_range",
    "read_version",
    "rejection",
    "remote_pages",
    "remote_range",
    "size_and_stamp",
    "stamp_of_status",
    "tiff_pages",
    "to_uri",
    "write_atomic",
    "write_new",
    "write_over",
]
