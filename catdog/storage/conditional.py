"""Files by version: a file is replaced or deleted only if it is still the one that was read.

A version identifies one content of one file; every write gives the file another one. It is the ETag in
S3 and Azure, the generation in Google's store, and the inode, size and time of a local file. Stores
compare versions themselves (`If-Match`). Local files are locked while they are compared and replaced
(`flock`, which over NFS is the server's).
"""

# ruff: noqa: PTH105, PTH108 - paths are strings here, like URIs

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from catdog.storage import remote
from catdog.storage.files import (
    delete,
    lock,
    open_local,
    pread,
    read_range,
    write_new,
    written_aside,
)
from catdog.storage.uris import is_local, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_version(uri: str, max_bytes: int) -> tuple[bytes, str]:
    """A whole file, and the version of what was read.

    Raises:
        OSError: as `read_range`; with `errno.EFBIG` where the file has more than `max_bytes`.
        StorageDownError: the store does not answer.
    """
    if is_local(uri):
        descriptor = open_local(local_path(uri))
        try:
            size = os.fstat(descriptor).st_size
            data = pread(descriptor, 0, min(size, max_bytes + 1))
            version = _version(descriptor)
        finally:
            os.close(descriptor)
    else:
        data, version = remote.read_object(uri)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return data, version


def write_over(uri: str, data: bytes, version: str) -> bool:
    """Replace a file if it still has this version, whole or not at all.

    Returns:
        Whether the file now holds `data`: False if it is another one, or gone.

    Raises:
        As `write_atomic`.
    """
    if is_local(uri):
        path = local_path(uri)
        with written_aside(uri, data) as temporary, _locked(path, version) as same:
            if same:
                os.replace(temporary, path)
        return same
    try:
        remote.upload(uri).put_over(data, version)
    except (FileExistsError, FileNotFoundError):
        # A request that is repeated because its answer was lost finds its own file.
        with suppress(FileNotFoundError):
            return read_range(uri, 0, len(data) + 1) == data
        return False
    return True


def delete_version(uri: str, version: str) -> None:
    """Delete a file if it still has this version. Errors as `delete`."""
    if not is_local(uri):
        remote.delete_object(uri, version)
        return
    path = local_path(uri)
    with _locked(path, version) as same:
        if same:
            os.unlink(path)


def has_conditions(uri: str) -> bool:
    """Whether a store creates a file only once and replaces only what was read; tries it with this file.

    Raises:
        As `write_atomic`.
    """
    try:
        if not write_new(uri, b"1") or write_new(uri, b"2"):
            return False
        _, version = read_version(uri, 1)
        return write_over(uri, b"3", version) and not write_over(uri, b"4", version)
    finally:
        delete(uri)


def _version(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


@contextmanager
def _locked(path: str, version: str) -> Iterator[bool]:
    """Whether a file has this version, and nobody else replaces it within the block."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks what may be written
    except FileNotFoundError:
        yield False
        return
    try:
        lock(descriptor)
        # The previous holder of the lock may have replaced the file.
        again = open_local(path)
        try:
            same = _version(again) == version == _version(descriptor)
        finally:
            os.close(again)
        yield same
    finally:
        os.close(descriptor)
