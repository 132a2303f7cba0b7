"""Files that are not local, by their URI's scheme: each store's way of reading and listing."""

# ruff: noqa: D102 - the methods of io do what io says

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from catdog.storage import clouds, hub, s3, web
from catdog.storage.failures import said

_Pages: TypeAlias = Iterator[tuple[list[tuple[str, int, str]], list[str]]]

HEAD_BYTES = s3.HEAD_BYTES
PAGE_KEYS = s3.PAGE_KEYS


class _Store(NamedTuple):
    """How files of a scheme are read, listed and written: the functions below, by their names."""

    range: Callable[[str, int, int, str | None], tuple[bytes, int]]
    size_and_stamp: Callable[[str], tuple[int, str]]
    pages: Callable[..., _Pages]
    upload: Callable[[str], s3.Upload | clouds.Upload]
    read_object: Callable[[str], tuple[bytes, str]]
    delete_object: Callable[[str, str | None], None]


def remote_range(uri: str, offset: int, length: int, stamp: str | None = None) -> tuple[bytes, int]:
    """A byte range of a remote file, and the size of the whole file. Errors as `read_range`."""
    return _store(uri).range(uri, offset, length, stamp)


def size_and_stamp(uri: str) -> tuple[int, str]:
    """The size of a remote file and its stamp. Errors as `read_range`."""
    return _store(uri).size_and_stamp(uri)


def remote_pages(uri_prefix: str, *, delimiter: str = "", max_keys: int | None = None) -> _Pages:
    """Pages of a listing in the server's order: (key, size, stamp) of objects, common prefixes.

    Raises:
        OSError: as `read_range`, about the bucket; the listing does not come to an end; or there is
            none, since web servers list nothing.
        StorageDownError: the store does not answer.
    """
    return _store(uri_prefix).pages(uri_prefix, delimiter=delimiter, max_keys=max_keys)


def upload(uri: str) -> s3.Upload | clouds.Upload:
    """A remote file that is to be written.

    Raises:
        OSError: nothing is written to such a store.
    """
    return _store(uri).upload(uri)


def read_object(uri: str) -> tuple[bytes, str]:
    """A whole remote file and its version. Errors as `read_range`."""
    return _store(uri).read_object(uri)


def delete_object(uri: str, version: str | None = None) -> None:
    """Delete a remote file, or only that version of it; nothing happens where there is none."""
    _store(uri).delete_object(uri, version)


def _read_only(*_: object) -> Any:
    raise OSError(
        errno.ENOTSUP, said("Files can only be written to local folders, s3://, gs:// and az://.")
    )


def _no_pages(*_: object, **__: object) -> _Pages:
    raise OSError(errno.ENOTSUP, said("Web servers do not list files; give a list of URLs."))


_READ_ONLY = (_read_only, _read_only, _read_only)
_WEB = _Store(web.web_range, web.size_and_stamp, _no_pages, *_READ_ONLY)
_CLOUD = _Store(
    clouds.cloud_range,
    clouds.size_and_stamp,
    clouds.cloud_pages,
    clouds.Upload,
    clouds.read_object,
    clouds.delete_object,
)
_STORES = {
    "http": _WEB,
    "https": _WEB,
    "hf": _Store(hub.hub_range, hub.size_and_stamp, hub.hub_pages, *_READ_ONLY),
    "gs": _CLOUD,
    "az": _CLOUD,
}
_S3 = _Store(
    s3.s3_range, s3.size_and_stamp, s3.s3_pages, s3.Upload, s3.read_object, s3.delete_object
)


def _store(uri: str) -> _Store:
    return _STORES.get(uri.partition("://")[0], _S3)


class RangedFile(io.RawIOBase):
    """A remote file as a raw file of Python's: each read is one ranged request, a small file needs one in all.

    Who asks for the size gets the beginning in the same answer.
    """

    def __init__(self, uri: str, stamp: str | None = None) -> None:
        self._uri, self._stamp = uri, stamp
        self._head, self._size = remote_range(uri, 0, HEAD_BYTES, stamp)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        end = self._position + length
        if end <= len(self._head):
            data = self._head[self._position : end]
        else:
            data = remote_range(self._uri, self._position, length, self._stamp)[0]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
