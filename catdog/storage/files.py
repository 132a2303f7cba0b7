"""Files by URI, on local disks and in S3 alike: whole, by range, by name; written whole or not at all.

Functions raise `FileNotFoundError`, `PermissionError` or another `OSError` about one file, and
`StorageDownError` when a store as a whole does not answer.
"""

# ruff: noqa: PTH103, PTH105, PTH108, PTH116 - paths are strings here, like URIs

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from catdog.errors import ImageRejected, naming_full_disk
from catdog.storage import remote, s3
from catdog.storage.failures import changed, said
from catdog.storage.remote import remote_pages, remote_range
from catdog.storage.uris import bucket_and_key, is_local, is_web, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI and the path in it, for libraries that want one."""
    if is_local(uri):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(auto_mkdir=True), local_path(uri)
    s3.refuse_others(uri)
    return s3.client(uri), "/".join(bucket_and_key(uri))


def read_range(uri: str, offset: int, length: int, stamp: str | None = None) -> bytes:
    """Bytes `offset` to `offset + length` of a file; fewer where the file ends before that.

    Args:
        uri: of the file.
        offset: in bytes.
        length: in bytes.
        stamp: the stamp of the file that is meant.

    Raises:
        OSError: the file is missing, forbidden or unreadable.
        ImageRejected: it is another one than is meant (`changed`).
        StorageDownError: the store does not answer.
    """
    if is_local(uri):
        descriptor = open_local(local_path(uri), stamp)
        try:
            return pread(descriptor, offset, length)
        finally:
            os.close(descriptor)
    return remote_range(uri, offset, length, stamp)[0]


def read_bytes(uri: str, max_bytes: int, stamp: str | None = None) -> bytes:
    """A whole file; `stamp` as for `read_range`.

    Raises:
        OSError: as `read_range`; with `errno.EFBIG` where the file has more than `max_bytes`.
        StorageDownError: the store does not answer.
    """
    # The size comes first: `max_bytes` may be more than there is memory.
    if is_local(uri):
        descriptor = open_local(local_path(uri), stamp)
        try:
            size = os.fstat(descriptor).st_size
            return pread(descriptor, 0, _within(size, max_bytes))
        finally:
            os.close(descriptor)
    head, size = remote_range(uri, 0, remote.HEAD_BYTES, stamp)
    missing = _within(size, max_bytes) - len(head)
    return head + remote_range(uri, len(head), missing, stamp)[0] if missing > 0 else head


def _within(size: int, max_bytes: int) -> int:
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return size


def open_local(path: str, stamp: str | None = None) -> int:
    """A descriptor of a regular local file; never blocks on a pipe or a device.

    Raises:
        OSError: it cannot be opened, or is no regular file (`errno.ENODEV`).
        ImageRejected: it is another one than `stamp` says (`changed`).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # what a socket answers
            raise _no_file() from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            sentence = "It is a folder; to read what is in it, name it with a final /."
            raise IsADirectoryError(errno.EISDIR, said(sentence))
        if not stat.S_ISREG(mode):
            raise _no_file()
        check_unchanged(descriptor, stamp)
    except (OSError, ImageRejected):
        os.close(descriptor)
        raise
    return descriptor


def _no_file() -> OSError:
    return OSError(errno.ENODEV, said("It is a pipe, a socket or a device, not a file."))


def stamp_of_status(status: os.stat_result) -> str:
    """The stamp of a local file, which differs from that of another or later file of the same name."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def check_unchanged(descriptor: int, stamp: str | None) -> None:
    """Whether an open file is the one that is meant.

    Raises:
        ImageRejected: it is another one than `stamp` says (`changed`).
    """
    if stamp is not None and stamp_of_status(os.fstat(descriptor)) != stamp:
        raise changed()


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


def size_and_stamp(uri: str) -> tuple[int, str]:
    """The size of a file in bytes, and its stamp.

    A stamp is a local file's size and modification time, an object's size and ETag. Errors as
    `read_range`; a folder is not a file.
    """
    if is_local(uri):
        status = os.stat(local_path(uri))
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        return status.st_size, stamp_of_status(status)
    if not is_web(uri) and not bucket_and_key(uri)[1]:
        raise IsADirectoryError(errno.EISDIR, "it is a bucket")
    return remote.size_and_stamp(uri)


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) at this URI. Raises what `read_range` raises else."""
    try:
        size_and_stamp(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def list_names(uri_folder: str) -> list[str]:
    """Sorted names right below a folder, subfolders with a final `/`; none where it is missing.

    Unfinished files of `write_atomic` and `open_atomic` are not among them.
    """
    names: set[str] = set()
    if is_local(uri_folder):
        missing = suppress(FileNotFoundError, NotADirectoryError)
        with missing, os.scandir(local_path(uri_folder)) as entries:
            names = {entry.name + "/" * entry.is_dir() for entry in entries}
        return sorted(name for name in names if not _UNFINISHED.fullmatch(name))
    try:
        for keys, prefixes in remote_pages(uri_folder.rstrip("/") + "/", delimiter="/"):
            names |= {key for key, *_ in keys}  # some stores name a key twice
            names |= set(prefixes)
    except FileNotFoundError:
        return []
    start = len(bucket_and_key(uri_folder.rstrip("/") + "/")[1])
    return sorted(name[start:] for name in names if len(name) > start)


def open_input(uri: str, stamp: str | None = None) -> BinaryIO:
    """A seekable binary file for libraries that want one; remote files are read in blocks.

    Arrow must read it in the caller's thread (`pre_buffer=False`): a thread of its own that lets go
    of Python's bytes while the process ends aborts it.
    """
    if is_local(uri):
        return os.fdopen(open_local(local_path(uri), stamp), "rb")
    return io.BufferedReader(remote.RangedFile(uri, stamp), s3.BLOCK_BYTES)


_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{16}\.unfinished")


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file, whole or not at all; replaces an existing one.

    Raises:
        OSError: the place is forbidden; nothing was written.
        DiskFullError: no space is left; nothing was written.
        StorageDownError: the store does not answer.
    """
    with open_atomic(uri) as file:
        file.write(data)


def write_new(uri: str, data: bytes) -> bool:
    """Write a file, whole or not at all, unless it exists.

    Exactly one of several writers at the same moment succeeds.

    Returns:
        Whether the file now holds `data`: False if another one was there first.

    Raises:
        As `write_atomic`.
    """
    try:
        if is_local(uri):
            with written_aside(uri, data) as temporary:
                _link(temporary, local_path(uri))
        else:
            remote.upload(uri).put_new(data)
    except FileExistsError:
        # A request that is repeated because its answer was lost finds its own file.
        with suppress(FileNotFoundError):
            return read_range(uri, 0, len(data) + 1) == data
        return False
    return True


@contextmanager
def open_atomic(uri: str) -> Iterator[BinaryIO]:
    """A binary file to write to, which appears at `uri` as a whole when the block ends.

    If the block raises, nothing appears and an existing file stays as it was.
    Missing local folders are made. Errors as `write_atomic`.
    """
    if not is_local(uri):
        upload = remote.upload(uri)
        try:
            yield cast("BinaryIO", upload)
        except BaseException:
            upload.abort()
            raise
        upload.complete()
        return
    path = local_path(uri)
    with naming_full_disk(path):
        temporary = _temporary(path)
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
    _sync_folder(path)


_NOT_SUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}


def _link(source: str, target: str) -> None:
    """Give a file a second name. Raises FileExistsError if there is a file of that name."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    else:
        return
    # Some network shares have no links: whoever renames holds the folder's lock.
    folder = os.open(os.path.split(target)[0], os.O_RDONLY)
    try:
        lock(folder)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "another file with this name exists already")
        os.replace(source, target)
    finally:
        os.close(folder)


def lock(descriptor: int) -> None:
    """Wait for the lock of a file or a folder, if its file system has locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # it ends with the process
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


@contextmanager
def written_aside(uri: str, data: bytes) -> Iterator[str]:
    """The path of a temporary file that holds `data`, beside a local file that it is to become."""
    path = local_path(uri)
    with naming_full_disk(path):
        temporary = _temporary(path)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(OSError):
                os.unlink(temporary)
    _sync_folder(path)


def _temporary(path: str) -> str:
    """A name for an unfinished file, which neither `list_names` nor readers of datasets see."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # The middle is cut so that a name at the file system's limit of 255 bytes still fits.
    return f"{folder}/.{name[:40]}.{secrets.token_hex(8)}.unfinished"


def _sync_folder(path: str) -> None:
    """Make a file's name survive a power cut, too."""
    descriptor = os.open(os.path.split(path)[0], os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot do this
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(uri: str) -> None:
    """Delete a file; nothing happens if there is none."""
    if is_local(uri):
        with suppress(FileNotFoundError):
            os.unlink(local_path(uri))
        return
    remote.delete_object(uri)
