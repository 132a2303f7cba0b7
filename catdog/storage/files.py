"""Files by URI, on local disks and in S3 alike: whole, by range, by name; written whole or not at all.

Functions raise `FileNotFoundError`, `PermissionError` or another `OSError` about one file, and
`StorageDownError` when a store as a whole does not answer.
"""

# ruff: noqa: PTH103, PTH105, PTH108, PTH116 - paths are strings here, like URIs

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from catdog.storage import s3
from catdog.storage.s3 import s3_pages, s3_range
from catdog.storage.uris import bucket_and_key, is_local, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI and the path in it, for libraries that want one."""
    if is_local(uri):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(auto_mkdir=True), local_path(uri)
    return s3.client(), "/".join(bucket_and_key(uri))


def read_range(uri: str, offset: int, length: int) -> bytes:
    """Bytes `offset` to `offset + length` of a file; fewer where the file ends before that.

    Raises:
        OSError: the file is missing, forbidden or unreadable.
        StorageDownError: the store does not answer.
    """
    if is_local(uri):
        descriptor = open_local(local_path(uri))
        try:
            return pread(descriptor, offset, length)
        finally:
            os.close(descriptor)
    return s3_range(uri, offset, length)[0]


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """A whole file.

    Raises:
        OSError: as `read_range`; with `errno.EFBIG` where the file has more than `max_bytes`.
        StorageDownError: the store does not answer.
    """
    # The size comes first: `max_bytes` may be more than there is memory.
    if is_local(uri):
        descriptor = open_local(local_path(uri))
        try:
            size = os.fstat(descriptor).st_size
            return pread(descriptor, 0, _within(size, max_bytes))
        finally:
            os.close(descriptor)
    head, size = s3_range(uri, 0, s3.HEAD_BYTES)
    missing = _within(size, max_bytes) - len(head)
    return head + s3_range(uri, len(head), missing)[0] if missing > 0 else head


def _within(size: int, max_bytes: int) -> int:
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return size


def open_local(path: str) -> int:
    """A descriptor of a regular local file; never blocks on a pipe or a device.

    Raises:
        OSError: it cannot be opened, or is no regular file (`errno.ENODEV`).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENODEV, "it is a pipe, a socket or a device")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def pread(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset` of an open file; fewer only at its end."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    chunks = [data]
    missing = length - len(data)
    while missing > 0 and data:  # a read gives at most 2 GiB, and less on network file systems
        data = os.pread(descriptor, missing, offset + length - missing)
        chunks.append(data)
        missing -= len(data)
    return b"".join(chunks)


def size_of(uri: str) -> int:
    """The size of a file in bytes. Errors as `read_range`; a folder is not a file."""
    if is_local(uri):
        status = os.stat(local_path(uri))
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        return status.st_size
    if not bucket_and_key(uri)[1]:
        raise IsADirectoryError(errno.EISDIR, "it is a bucket")
    return s3_range(uri, 0, 1)[1]  # HEAD would not say why it is refused


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) at this URI. Raises what `read_range` raises else."""
    try:
        size_of(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def list_names(uri_folder: str) -> list[str]:
    """Sorted names right below a folder, subfolders with a final `/`; none where it is missing.

    Unfinished files of `write_atomic` and `open_atomic` are not among them.
    """
    names: set[str] = set()
    if is_local(uri_folder):
        with suppress(FileNotFoundError), os.scandir(local_path(uri_folder)) as entries:
            names = {entry.name + "/" * entry.is_dir() for entry in entries}
        return sorted(name for name in names if not _UNFINISHED.fullmatch(name))
    try:
        for keys, prefixes in s3_pages(uri_folder.rstrip("/") + "/", delimiter="/"):
            names |= {key for key, _ in keys}  # some stores name a key twice
            names |= set(prefixes)
    except FileNotFoundError:
        return []
    start = len(bucket_and_key(uri_folder.rstrip("/") + "/")[1])
    return sorted(name[start:] for name in names if len(name) > start)


def open_input(uri: str) -> BinaryIO:
    """A seekable binary file for libraries that want one; remote files are read in blocks."""
    if is_local(uri):
        return os.fdopen(open_local(local_path(uri)), "rb")
    return io.BufferedReader(s3.RangedFile(uri), s3.BLOCK_BYTES)


_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{16}\.unfinished")


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file that is there whole or not at all; replaces an existing one.

    Raises:
        OSError: the place is forbidden or full; nothing was written.
        StorageDownError: the store does not answer.
    """
    with open_atomic(uri) as file:
        file.write(data)


def write_new(uri: str, data: bytes) -> bool:
    """Write a file that is there whole or not at all, unless there is one already.

    Of several writers at the same moment exactly one succeeds.

    Returns:
        Whether the file now holds `data`: False where another one was there first.

    Raises:
        As `write_atomic`.
    """
    try:
        if is_local(uri):
            temporary = f"{uri}.{secrets.token_hex(8)}.unfinished"
            write_atomic(temporary, data)
            try:
                os.link(local_path(temporary), local_path(uri))
            finally:
                delete(temporary)
        else:
            s3.Upload(uri).put_new(data)
    except FileExistsError:
        # A request that is repeated because its answer was lost finds its own file.
        return read_bytes(uri, len(data) + 1) == data
    return True


@contextmanager
def open_atomic(uri: str) -> Iterator[BinaryIO]:
    """A binary file to write to, which appears at `uri` whole when the block ends well.

    Where the block raises, nothing appears and an existing file stays as it was.
    Missing local folders are made. Errors as `write_atomic`.
    """
    if not is_local(uri):
        upload = s3.Upload(uri)
        try:
            yield cast("BinaryIO", upload)
        except BaseException:
            upload.abort()
            raise
        upload.complete()
        return
    path = local_path(uri)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # The middle is cut so that a name at the file system's limit of 255 bytes still fits.
    temporary = f"{folder}/.{name[:40]}.{secrets.token_hex(8)}.unfinished"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot do this
            os.fsync(descriptor)  # the name itself survives a power cut
    finally:
        os.close(descriptor)


def delete(uri: str) -> None:
    """Delete a file; nothing happens where there is none."""
    if is_local(uri):
        with suppress(FileNotFoundError):
            os.unlink(local_path(uri))
        return
    s3.delete_object(uri)
