"""Files that are not local, by their URI's scheme: each store's way of reading and listing."""

# ruff: noqa: D102 - the methods of io do what io says

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Any

from catdog.storage import clouds, hub, s3, web
from catdog.storage.failures import said
from catdog.storage.uris import is_cloud, is_hub, is_web

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_BYTES = s3.HEAD_BYTES
PAGE_KEYS = s3.PAGE_KEYS


def remote_range(uri: str, offset: int, length: int, stamp: str | None = None) -> tuple[bytes, int]:
    """A byte range of a remote file, and the size of the whole file. Errors as `read_range`."""
    if is_web(uri):
        return web.web_range(uri, offset, length, stamp)
    if is_hub(uri):
        return hub.hub_range(uri, offset, length, stamp)
    if is_cloud(uri):
        return clouds.cloud_range(uri, offset, length, stamp)
    return s3.s3_range(uri, offset, length, stamp)


def size_and_stamp(uri: str) -> tuple[int, str]:
    """The size of a remote file and its stamp. Errors as `read_range`."""
    if is_web(uri):
        return web.size_and_stamp(uri)
    if is_hub(uri):
        return hub.size_and_stamp(uri)
    if is_cloud(uri):
        return clouds.size_and_stamp(uri)
    return s3.size_and_stamp(uri)


def remote_pages(
    uri_prefix: str, *, delimiter: str = "", max_keys: int | None = None
) -> Iterator[tuple[list[tuple[str, int, str]], list[str]]]:
    """Pages of a listing in the server's order: (key, size, stamp) of objects, common prefixes.

    Raises:
        OSError: as `read_range`, about the bucket; the listing does not come to an end; or there is
            none, since web servers list nothing.
        StorageDownError: the store does not answer.
    """
    if is_web(uri_prefix):
        raise OSError(errno.ENOTSUP, said("Web servers list no files; give a list of URLs."))
    if is_hub(uri_prefix):
        return hub.hub_pages(uri_prefix, delimiter=delimiter, max_keys=max_keys)
    if is_cloud(uri_prefix):
        return clouds.cloud_pages(uri_prefix, delimiter=delimiter, max_keys=max_keys)
    return s3.s3_pages(uri_prefix, delimiter=delimiter, max_keys=max_keys)


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
