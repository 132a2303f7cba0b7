"""Bytes of an archive by offset, a few at a time: from a file, or from an expanded gzip stream."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import entries

_SMALL_WINDOW_BYTES = 16 << 10
_LARGE_WINDOW_BYTES = 8 << 20
MAX_LABEL_BYTES = 1 << 20
"""Largest member that is read for the label in it."""
BOMB_FLOOR_BYTES = 1 << 30
"""Expanding less than this harms nobody, whatever the ratio."""


class Member(NamedTuple):
    """One file in an archive."""

    name: str
    """Its name in zipfile and tarfile, for its URI; bytes that are not UTF-8 as `shown` gives them."""
    offset: int
    """Offset of its data in a tar (or in the decompressed stream), or of its local header in a zip."""
    length: int
    """Bytes to read from `offset` on."""
    size: int
    """Size of the file itself in bytes."""
    error: ErrorCode | None = None
    """Why the file cannot be read, if that is known already."""
    detail: str | None = None
    true_name: str | None = None
    """The name that the archive means, if `name` is a wrong reading of it."""
    by_name: bool = True
    """Whether zipfile and tarfile find it: they stop at a tar's first end mark, and need the directory
    of a zip."""
    content: bytes | ImageRejected | None = None
    """Its content, if that was asked for."""


class Bytes(Protocol):
    """What the indexes read from."""

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes; fewer only at the end. Offsets never go back by more than a read."""

    def reaches(self, offset: int) -> bool:
        """Whether there are this many bytes."""


class SizedBytes(Protocol):
    """What is read from both ends."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes; fewer only at the end."""


class FileBytes:
    """A file, read by offset. A remote file is read through a window, ahead of a forward reader.

    The stamp is checked when the file is opened, and by each request to a store.

    The window is small for a reader that jumps from header to header of large members, and grows
    (with the next one fetched in the background) for a reader that goes from byte to byte.
    """

    def __init__(self, uri: str, stamp: str | None = None) -> None:
        self._uri = uri
        self._descriptor = -1
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, int, Future[bytes]] | None = None
        self._start = 0
        self._window = b""
        self._window_bytes = _SMALL_WINDOW_BYTES
        if storage.is_local(uri):
            self._descriptor = storage.open_local(storage.local_path(uri), stamp)
            status = os.fstat(self._descriptor)
            self.size, self.stamp = status.st_size, storage.stamp_of_status(status)
        else:
            self.size, self.stamp = storage.size_and_stamp(uri)
            if stamp is not None:
                self.stamp = stamp  # and each request asks for that

    def close(self) -> None:
        """Close the file; reads fail from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._ahead = None

    def check_unchanged(self) -> None:
        """Raise ImageRejected if the file has changed; for a remote one, reading does."""
        if self._descriptor >= 0:
            storage.check_unchanged(self._descriptor, self.stamp)

    def reaches(self, offset: int) -> bool:
        """Whether the file has this many bytes."""
        return offset <= self.size

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer only at the end. Errors as `storage.read_range`."""
        length = min(length, self.size - offset)  # numbers from an archive may be any
        if length <= 0:
            return b""
        if self._descriptor >= 0:
            return storage.pread(self._descriptor, offset, length)
        end = offset + length
        if not (self._start <= offset and end <= self._start + len(self._window)):
            self._move(offset, end)
        return self._window[offset - self._start : end - self._start]

    def _move(self, offset: int, end: int) -> None:
        """Let the window hold `offset` to `end`."""
        old_end = self._start + len(self._window)
        if self._start <= offset <= old_end + self._window_bytes:
            self._window_bytes = min(4 * self._window_bytes, _LARGE_WINDOW_BYTES)
        else:
            self._window_bytes = _SMALL_WINDOW_BYTES
        kept = self._window[offset - self._start :] if self._start <= offset < old_end else b""
        self._start = offset
        self._window = kept
        if self._ahead is not None:
            ahead_start, ahead_end, future = self._ahead
            self._ahead = None
            have = offset + len(kept)
            if ahead_start <= have < ahead_end:
                # A small jump may have left the first of these bytes behind.
                self._window = kept + future.result()[have - ahead_start :]
        have = self._start + len(self._window)
        if have < end:
            wanted = min(max(end, self._start + self._window_bytes), self.size)
            fetched = storage.read_range(self._uri, have, wanted - have, self.stamp)
            self._window += fetched
            have += len(fetched)
            if have < min(end, self.size):
                raise ImageRejected(ErrorCode.TRUNCATED, "The archive became shorter.")
        if self._window_bytes >= (1 << 20) and have < self.size:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="catdog-ahead")
            length = min(self._window_bytes, self.size - have)
            fetching = self._pool.submit(storage.read_range, self._uri, have, length, self.stamp)
            self._ahead = (have, have + length, fetching)


class Beginning:
    """The first bytes of a file, as if it ended there."""

    def __init__(self, file: FileBytes, size: int) -> None:
        self._file, self.size = file, size

    def read_at(self, offset: int, length: int) -> bytes:
        """As `FileBytes.read_at`."""
        return self._file.read_at(offset, max(0, min(length, self.size - offset)))


class GzipBytes:
    """The decompressed stream of a gzip file, read forward only. Memory is a few blocks.

    `position` is the end of what was read; `read_at` accepts no smaller offset.
    """

    def __init__(self, file: FileBytes, max_expansion: int) -> None:
        self.position = 0
        self._file = file
        self._max_expansion = max_expansion
        self._read = 0  # compressed bytes taken from the file
        self._input = b""
        self._output = b""
        self._expanded = 0
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._ended = False

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer only at the end.

        Raises:
            ImageRejected: the stream is damaged or cut, or a bomb.
            OSError: as `storage.read_range`.
        """
        if not self._skip(offset):
            return b""
        chunks = []
        while length > 0 and self._fill():
            chunk = self._output[:length]
            self._output = self._output[length:]
            chunks.append(chunk)
            length -= len(chunk)
            self.position += len(chunk)
        return b"".join(chunks)

    def read_some(self, length: int) -> bytes:
        """At most `length` bytes, and at least one unless the stream has ended.

        Raises as `read_at`, but only after everything before the damage was given.
        """
        self._fill()
        some, self._output = self._output[:length], self._output[length:]
        self.position += len(some)
        return some

    def reaches(self, offset: int) -> bool:
        """Whether the stream has this many bytes; reads up to there."""
        return offset <= self.position or self._skip(offset)

    def check_rest(self) -> None:
        """Read to the end, where the checksum is. Raises as `read_at`."""
        while self._fill():
            self.position += len(self._output)
            self._output = b""

    def _skip(self, offset: int) -> bool:
        if offset < self.position:
            raise ValueError("a gzip stream does not go back")
        while self.position < offset and self._fill():
            step = min(offset - self.position, len(self._output))
            self._output = self._output[step:]
            self.position += step
        return self.position == offset

    def _fill(self) -> bool:
        """Have some output, unless the stream has ended."""
        while not self._output and not self._ended:
            if self._inflate.eof:
                # Files of several gzip streams one after the other are one stream; anything else
                # behind the end is padding where it is zeros.
                self._input = self._inflate.unused_data or self._input
                self._input = self._input.lstrip(b"\0") or self._more()
                if not self._input:
                    self._ended = True
                    break
                if not self._input.lstrip(b"\0"):
                    self._input = b""
                    continue
                if not self._input.startswith(b"\x1f"):
                    raise ImageRejected(
                        ErrorCode.UNREADABLE, "The bytes after the gzip stream are not another one."
                    )
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
            if not self._input:
                self._input = self._more()
                if not self._input:
                    raise ImageRejected(ErrorCode.TRUNCATED, "The gzip stream ends early.")
            try:
                self._output = self._inflate.decompress(self._input, 1 << 18)
            except zlib.error as error:
                raise ImageRejected(ErrorCode.UNREADABLE, "The gzip stream is damaged.") from error
            self._input = self._inflate.unconsumed_tail
            self._expanded += len(self._output)
            if self._expanded > max(BOMB_FLOOR_BYTES, self._max_expansion * self._read):
                raise ImageRejected(
                    ErrorCode.TOO_LARGE,
                    f"The gzip stream expands more than {self._max_expansion} times.",
                )
        return bool(self._output)

    def _more(self) -> bytes:
        data = self._file.read_at(self._read, 1 << 18)
        self._read += len(data)
        return data


def too_long_label(size: int) -> ImageRejected | None:
    """Why a member of this size is not read for the label in it, or None."""
    if size <= MAX_LABEL_BYTES:
        return None
    return ImageRejected(
        ErrorCode.TOO_LARGE, f"It has {size:,} bytes, more than {MAX_LABEL_BYTES:,}."
    )


def is_utf8(name: bytes) -> bool:
    """Whether a name can be shown as it is."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(name: bytes) -> str:
    """A name as text, what is no UTF-8 as `entries.shown` gives it."""
    return entries.shown(name.decode("utf-8", "surrogateescape"))
