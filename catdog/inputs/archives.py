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
- whatever comes after a damaged header is lost: `unreadable` for the archive itself.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import numpy.typing as npt

_TAR_BLOCK = 512
_MAX_TAR_EXTENSION_BYTES = 1 << 20  # a member's long name and attributes; real ones have 4 KiB
_SMALL_WINDOW_BYTES = 16 << 10
_LARGE_WINDOW_BYTES = 8 << 20
_BOMB_FLOOR_BYTES = 1 << 30  # expanding less than this harms nobody, whatever the ratio
_ZIP_LOCAL_BYTES = 30
# A local header's extra field may be longer than the directory's; tools add some dozens of bytes.
_ZIP_SLACK_BYTES = 64
ZIP_LONGEST_HEADER_BYTES = _ZIP_LOCAL_BYTES + 2 * 65535


class Member(NamedTuple):
    """One file in an archive."""

    name: str
    """As the archive spells it; bytes that are no UTF-8 as `\\xNN`."""
    offset: int
    """Of its data in the tar (or in the decompressed stream), of its local header in the zip."""
    length: int
    """Bytes to read from `offset` on."""
    size: int
    """Bytes of the file itself."""
    error: ErrorCode | None = None
    """Set where it is known already that the file cannot be read."""
    detail: str | None = None


class Bytes(Protocol):
    """What the indexes read from."""

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes; fewer only at the end. Offsets never go back by more than a read."""

    def reaches(self, offset: int) -> bool:
        """Whether there are this many bytes."""


class FileBytes:
    """A file by offset. A remote one is read through a window, ahead of a forward reader.

    The window is small for a reader that jumps from header to header of large members, and grows
    (with the next one fetched in the background) for a reader that goes from byte to byte.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._descriptor = -1
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, int, Future[bytes]] | None = None
        self._start = 0
        self._window = b""
        self._window_bytes = _SMALL_WINDOW_BYTES
        if storage.is_local(uri):
            self._descriptor = storage.open_local(storage.local_path(uri))
            self.size = os.fstat(self._descriptor).st_size
        else:
            self.size = storage.size_of(uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reads fail from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._ahead = None

    def reaches(self, offset: int) -> bool:
        """Whether the file has this many bytes."""
        return offset <= self.size

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer only at the end. Errors as `storage.read_range`."""
        if self._descriptor >= 0:
            return storage.pread(self._descriptor, offset, length)
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
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
            fetched = storage.read_range(self._uri, have, wanted - have)
            self._window += fetched
            have += len(fetched)
            if have < min(end, self.size):
                raise ImageRejected(ErrorCode.TRUNCATED, "The archive became shorter.")
        if self._window_bytes >= (1 << 20) and have < self.size:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="catdog-ahead")
            length = min(self._window_bytes, self.size - have)
            fetching = self._pool.submit(storage.read_range, self._uri, have, length)
            self._ahead = (have, have + length, fetching)


class GzipBytes:
    """The decompressed stream of a gzip file, read forward only. Memory is a few blocks.

    `position` is how far it was read; `read_at` accepts no smaller offset.
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

    def reaches(self, offset: int) -> bool:
        """Whether the stream has this many bytes; goes there, but not behind what is read."""
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
                # behind the end (zeros, mostly) is padding.
                self._input = self._inflate.unused_data or self._input
                self._input = self._input.lstrip(b"\0") or self._more()
                if not self._input:
                    self._ended = True
                    break
                if not self._input.lstrip(b"\0"):
                    self._input = b""
                    continue
                if not self._input.startswith(b"\x1f"):
                    self._ended = True
                    break
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
            if self._expanded > max(_BOMB_FLOOR_BYTES, self._max_expansion * self._read):
                raise ImageRejected(
                    ErrorCode.TOO_LARGE,
                    f"The gzip stream expands more than {self._max_expansion} times.",
                )
        return bool(self._output)

    def _more(self) -> bytes:
        data = self._file.read_at(self._read, 1 << 18)
        self._read += len(data)
        return data


# --------------------------------------------------------------------------------------------
# tar


def tar_members(source: Bytes, max_members: int) -> Iterator[Member]:
    """The members of a tar (ustar, GNU, pax) in order.

    Raises:
        ImageRejected: after the members found, where the archive is cut, damaged or too large.
        OSError: as `storage.read_range`.
    """
    offset = 0
    count = 0
    long_name: bytes | None = None
    attributes: dict[str, bytes] = {}
    while (found := _tar_header(source, offset)) is not None:
        header, size = found
        kind = header[156:157]
        data = offset + _TAR_BLOCK
        if kind in b"xXLKg":
            extension = _tar_extension(source, offset, size)
            if kind == b"L":
                long_name = extension.split(b"\0", 1)[0]
            elif kind in b"xX":
                attributes = _pax_attributes(extension, offset)
            offset = data + _padded(size)
            continue

        raw_name = attributes.get("GNU.sparse.name") or attributes.get("path") or long_name
        if raw_name is None:
            raw_name = _tar_name(header)
        sparse = kind == b"S" or any(key.startswith("GNU.sparse.") for key in attributes)
        if kind == b"S":
            data = _behind_sparse_map(source, header, data)
        if "size" in attributes:
            size = _pax_size(attributes["size"], offset)
        long_name, attributes = None, {}
        name = raw_name.decode("utf-8", "backslashreplace")
        if kind in b"123456":
            size = 0  # whatever the header says, they have no data
        count += 1
        if count > max_members:
            raise ImageRejected(ErrorCode.TOO_LARGE, f"It has more than {max_members:,} members.")
        if not source.reaches(data + size):
            raise ImageRejected(ErrorCode.TRUNCATED, f"The archive ends inside {name[:200]!r}.")
        offset = data + _padded(size)
        if name.endswith("/") or kind in b"3456DVMN":
            continue
        yield Member(name, data, size, size, *_tar_trouble(kind, sparse, name, raw_name))


def _tar_trouble(
    kind: bytes, sparse: bool, name: str, raw_name: bytes
) -> tuple[ErrorCode, str] | tuple[None, None]:
    """Why a member cannot be read, or nothing."""
    if kind in b"12":
        return ErrorCode.UNSUPPORTED, "It is a link inside an archive."
    if sparse:
        return ErrorCode.UNSUPPORTED, "It is a sparse file inside an archive."
    if "\\x" in name and not _is_utf8(raw_name):
        return ErrorCode.UNREADABLE, "Its name is not valid UTF-8."
    return None, None


def _tar_header(source: Bytes, offset: int) -> tuple[bytes, int] | None:
    """A header whose checksum is right, and the size in it; None at the archive's end mark."""
    header = source.read_at(offset, _TAR_BLOCK)
    if len(header) < _TAR_BLOCK:
        if offset == 0:
            code = ErrorCode.UNREADABLE if header else ErrorCode.EMPTY
            raise ImageRejected(code, "It is no tar archive.")
        raise ImageRejected(
            ErrorCode.TRUNCATED,
            f"The archive ends after {offset:,} bytes without its end mark.",
        )
    if not header.strip(b"\0"):
        return None
    try:
        size = _tar_number(header[124:136])
        if _tar_number(header[148:156]) != 256 + sum(header[:148]) + sum(header[156:]):
            raise ValueError("checksum")
    except ValueError:
        at = f"It is damaged at byte {offset:,}." if offset else "It is no tar archive."
        raise ImageRejected(ErrorCode.UNREADABLE, at) from None
    return header, size


def _tar_extension(source: Bytes, offset: int, size: int) -> bytes:
    """What a header is followed by that tells of the next one."""
    if size > _MAX_TAR_EXTENSION_BYTES:
        raise ImageRejected(
            ErrorCode.TOO_LARGE, f"The header at byte {offset:,} has {size:,} bytes."
        )
    extension = source.read_at(offset + _TAR_BLOCK, size)
    if len(extension) < size:
        raise ImageRejected(
            ErrorCode.TRUNCATED, f"The archive ends inside the header at byte {offset:,}."
        )
    return extension


def _tar_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if prefix and header[257:263] == b"ustar\0":  # GNU keeps times there
        return prefix + b"/" + name
    return name


def _behind_sparse_map(source: Bytes, header: bytes, data: int) -> int:
    """Where the data of an old GNU sparse file begins: behind the blocks that go on with its map."""
    extended = header[482]
    while extended:
        block = source.read_at(data, _TAR_BLOCK)
        if len(block) < _TAR_BLOCK:
            raise ImageRejected(ErrorCode.TRUNCATED, "The archive ends inside a header.")
        extended = block[504]
        data += _TAR_BLOCK
    return data


def _pax_size(text: bytes, offset: int) -> int:
    try:
        size = int(text)
        if size < 0:
            raise ValueError("negative")
    except ValueError:
        raise ImageRejected(ErrorCode.UNREADABLE, f"It is damaged at byte {offset:,}.") from None
    return size


def _padded(size: int) -> int:
    return -(-size // _TAR_BLOCK) * _TAR_BLOCK


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _tar_number(field: bytes) -> int:
    """An octal number, or a big-endian one where the first bit is set. Raises ValueError."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():  # int() takes signs, underscores and 0o as well
        raise ValueError("not a number")
    return int(digits, 8)


def _pax_attributes(data: bytes, offset: int) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        try:
            space = data.index(b" ", position, position + 20)
            length = int(data[position:space])
            record = data[space + 1 : position + length]
            key, separator, value = record.partition(b"=")
            if length < 5 or not separator or not record.endswith(b"\n"):
                raise ValueError("not a record")
        except ValueError:
            raise ImageRejected(
                ErrorCode.UNREADABLE, f"It is damaged at byte {offset:,}."
            ) from None
        attributes[key.decode("utf-8", "replace")] = value[:-1]
        position += length
    return attributes


# --------------------------------------------------------------------------------------------
# zip

_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")
_ZIP_ENTRY = struct.Struct("<4s6H3L5H2L")
_ZIP_LOCAL = struct.Struct("<4s5H3L2H")


class _Entry(NamedTuple):
    """A record of a zip's directory."""

    raw_name: bytes
    flags: int
    method: int
    compressed: int
    size: int
    mode: int
    offset: int
    header_bytes: int


def zip_members(file: FileBytes, max_members: int) -> Iterator[Member]:
    """The members of a zip in the order of its directory.

    Raises:
        ImageRejected: after the members found, where the archive is cut, damaged or too large.
        OSError: as `storage.read_range`.
    """
    if not file.size:
        raise ImageRejected(ErrorCode.EMPTY, "The file has no bytes.")
    found = _zip_directory(file)
    if found is None:
        if file.read_at(0, 4) != b"PK\3\4":
            raise ImageRejected(ErrorCode.UNREADABLE, "It is no zip archive.")
        yield from _zip_members_without_directory(file, max_members)
        return
    start, length, shift = found
    # The directory is read twice, rather than kept: a million members have a hundred megabytes.
    spans = _zip_spans(file, start, length, max_members)
    overlapping = _overlapping(spans)
    for index, entry in enumerate(_zip_entries(file, start, length)):
        if index >= max_members:
            raise ImageRejected(ErrorCode.TOO_LARGE, f"It has more than {max_members:,} members.")
        name = _zip_name(entry)
        if name.endswith("/"):
            continue
        error, detail = _zip_trouble(entry)
        offset = entry.offset + shift
        if error is None and overlapping[index]:
            error, detail = ErrorCode.TOO_LARGE, "It shares its bytes with another member (a bomb)."
        if error is None and offset + entry.header_bytes + entry.compressed > file.size:
            error, detail = ErrorCode.TRUNCATED, "The archive ends before it."
        span = entry.header_bytes + entry.compressed + _ZIP_SLACK_BYTES
        yield Member(name, offset, span, entry.size, error, detail)


def extract_zip_member(span: bytes, size: int) -> bytes:
    """The file in the bytes of a zip from its local header on (stored or deflated).

    Args:
        span: from the local header to the end of the data, or further.
        size: of the file in bytes, as the directory says; memory is bounded by it.

    Raises:
        ImageRejected: it is damaged, or not of that size. `truncated` where `span` is too short.
    """
    if len(span) < _ZIP_LOCAL_BYTES or span[:4] != b"PK\3\4":
        raise ImageRejected(ErrorCode.UNREADABLE, "The archive has no member at its offset.")
    _, _, flags, method, _, _, crc, compressed, _, name_bytes, extra_bytes = _ZIP_LOCAL.unpack_from(
        span
    )
    start = _ZIP_LOCAL_BYTES + name_bytes + extra_bytes
    if method == 0:
        data = span[start : start + size]
        after = span[start + size : start + size + 8]
    elif method == 8:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(memoryview(span)[start:], size + 1)
            if len(data) == size and not inflate.eof:  # the end mark alone may be left
                data += inflate.decompress(inflate.unconsumed_tail, 1)
        except zlib.error as error:
            raise ImageRejected(ErrorCode.UNREADABLE, "Its compressed data is damaged.") from error
        if len(data) > size:
            raise ImageRejected(
                ErrorCode.UNREADABLE, f"It is larger than the {size:,} bytes that it claims."
            )
        if inflate.eof and len(data) < size:
            raise ImageRejected(
                ErrorCode.UNREADABLE, f"It is smaller than the {size:,} bytes that it claims."
            )
        after = inflate.unused_data[:8]
    else:
        raise ImageRejected(ErrorCode.UNSUPPORTED, f"Compression method {method} is not supported.")
    if len(data) < size:
        raise ImageRejected(ErrorCode.TRUNCATED, "The archive ends inside it.")
    if flags & 8 and not compressed:  # the checksum comes after the data
        if after[:4] != b"PK\7\x08":
            return data
        crc = int.from_bytes(after[4:8], "little")
    if zlib.crc32(data) != crc:
        raise ImageRejected(ErrorCode.UNREADABLE, "Its checksum is wrong.")
    return data


def _zip_directory(file: FileBytes) -> tuple[int, int, int] | None:
    """Where the directory starts, its length, and by how much all offsets are shifted."""
    tail_start = max(0, file.size - (_ZIP_END.size + 65535 + _ZIP64_LOCATOR.size))
    tail = file.read_at(tail_start, file.size - tail_start)
    at = len(tail)
    while True:
        at = tail.rfind(b"PK\5\6", 0, at)
        if at < 0:
            return None
        if at + _ZIP_END.size <= len(tail):
            end = _ZIP_END.unpack_from(tail, at)
            if at + _ZIP_END.size + end[7] <= len(tail):
                break
    _, disk, directory_disk, _, _, length, start, _ = end
    directory_end = tail_start + at
    if at >= _ZIP64_LOCATOR.size:
        locator = _ZIP64_LOCATOR.unpack_from(tail, at - _ZIP64_LOCATOR.size)
        if locator[0] == b"PK\6\7":
            # Right before its locator, except where extra data stands between.
            for end64_start in (directory_end - _ZIP64_LOCATOR.size - _ZIP64_END.size, locator[2]):
                record = file.read_at(max(0, end64_start), _ZIP64_END.size)
                if len(record) == _ZIP64_END.size and record[:4] == b"PK\6\6":
                    end64 = _ZIP64_END.unpack(record)
                    disk, directory_disk, length, start = end64[4], end64[5], end64[8], end64[9]
                    directory_end = end64_start
                    break
    if disk or directory_disk:
        raise ImageRejected(ErrorCode.UNSUPPORTED, "It is one part of a zip in several files.")
    shift = directory_end - length - start  # bytes put before the archive, such as a program
    if shift < 0:
        raise ImageRejected(ErrorCode.UNREADABLE, "The directory of the zip is damaged.")
    return start + shift, length, shift


def _zip_entries(file: FileBytes, start: int, length: int) -> Iterator[_Entry]:
    end = start + length
    chunk, chunk_start = b"", start
    position = start
    damaged = ImageRejected(ErrorCode.UNREADABLE, "The directory of the zip is damaged.")
    while position < end:
        chunk_end = chunk_start + len(chunk)
        if chunk_end < min(end, position + _ZIP_ENTRY.size + 3 * 65535):  # the longest record
            chunk = file.read_at(position, min(1 << 20, end - position))
            chunk_start = position
        at = position - chunk_start
        if at + _ZIP_ENTRY.size > len(chunk) or chunk[at : at + 4] != b"PK\1\2":
            raise damaged
        fields = _ZIP_ENTRY.unpack_from(chunk, at)
        flags, method = fields[3:5]
        compressed, size, n, e, c = fields[8:13]
        attributes, offset = fields[15:17]
        after = at + _ZIP_ENTRY.size + n + e + c
        if after > len(chunk):
            raise damaged
        name_end = at + _ZIP_ENTRY.size + n
        raw_name = chunk[at + _ZIP_ENTRY.size : name_end]
        if 0xFFFFFFFF in (compressed, size, offset):
            wide = _zip64_numbers(chunk[name_end : name_end + e])
            try:
                size = next(wide) if size == 0xFFFFFFFF else size
                compressed = next(wide) if compressed == 0xFFFFFFFF else compressed
                offset = next(wide) if offset == 0xFFFFFFFF else offset
            except StopIteration:
                raise damaged from None
        header_bytes = _ZIP_LOCAL_BYTES + n + e
        yield _Entry(
            raw_name, flags, method, compressed, size, attributes >> 16, offset, header_bytes
        )
        position = chunk_start + after


def _zip64_numbers(extra: bytes) -> Iterator[int]:
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == 1:
            body = extra[4 : 4 + length]
            for at in range(0, len(body) - 7, 8):
                yield int.from_bytes(body[at : at + 8], "little")
            return
        extra = extra[4 + length :]


def _zip_spans(
    file: FileBytes, start: int, length: int, max_members: int
) -> npt.NDArray[np.uint64]:
    """First and last byte of every member, as the directory claims them: uint64, (members, 2)."""
    spans = bytearray()
    for count, entry in enumerate(_zip_entries(file, start, length)):
        if count >= max_members:
            break
        first = _ZIP_LOCAL_BYTES + len(entry.raw_name)
        spans += struct.pack(
            "<2Q", entry.offset, min(entry.offset + first + entry.compressed, (1 << 64) - 1)
        )
    return np.frombuffer(spans, dtype="<u8").reshape(-1, 2)


def _overlapping(spans: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which members start before another one, that starts earlier, has ended."""
    overlapping = np.zeros(len(spans), dtype=np.bool_)
    if len(spans) > 1:
        order = np.argsort(spans[:, 0], kind="stable")
        ends = np.maximum.accumulate(spans[order, 1])
        overlapping[order[1:]] = spans[order[1:], 0] < ends[:-1]
    return overlapping


def _zip_name(entry: _Entry) -> str:
    # As Python's zipfile reads it, or fsspec would not find the member under this name.
    encoding = "utf-8" if entry.flags & 0x800 else "cp437"
    return entry.raw_name.decode(encoding, "backslashreplace").split("\0", 1)[0]


def _zip_trouble(entry: _Entry) -> tuple[ErrorCode | None, str | None]:
    if entry.flags & 0x2041:
        return ErrorCode.UNSUPPORTED, "It is encrypted."
    if entry.method not in {0, 8}:
        return ErrorCode.UNSUPPORTED, f"Compression method {entry.method} is not supported."
    if stat.S_ISLNK(entry.mode):
        return ErrorCode.UNSUPPORTED, "It is a link inside an archive."
    if entry.method == 0 and entry.size != entry.compressed:
        return ErrorCode.UNREADABLE, "The directory of the zip contradicts itself about it."
    if entry.flags & 0x800 and not _is_utf8(entry.raw_name):
        return ErrorCode.UNREADABLE, "Its name is not valid UTF-8."
    return None, None


def _zip_members_without_directory(file: FileBytes, max_members: int) -> Iterator[Member]:
    """Members by their own headers, up to where these end or do not tell the size."""
    offset = 0
    for _ in range(max_members):
        header = file.read_at(offset, _ZIP_LOCAL_BYTES)
        if len(header) < _ZIP_LOCAL_BYTES or header[:4] != b"PK\3\4":
            break
        fields = _ZIP_LOCAL.unpack(header)
        flags, method, compressed, size, name_bytes, extra_bytes = (
            fields[2],
            fields[3],
            *fields[7:],
        )
        rest = file.read_at(offset + _ZIP_LOCAL_BYTES, name_bytes + extra_bytes)
        if size == 0xFFFFFFFF or compressed == 0xFFFFFFFF:
            wide = [*_zip64_numbers(rest[name_bytes:])]
            if len(wide) >= 2:
                size, compressed = wide[:2]
        length = _ZIP_LOCAL_BYTES + name_bytes + extra_bytes + compressed
        if offset + length > file.size or (flags & 8 and not compressed):
            break
        entry = _Entry(rest[:name_bytes], flags, method, compressed, size, 0, offset, 0)
        name = _zip_name(entry)
        if not name.endswith("/"):
            yield Member(name, offset, length, size, *_zip_trouble(entry))
        offset += length
    raise ImageRejected(
        ErrorCode.TRUNCATED,
        "The directory at the end of the zip is missing; later members are lost.",
    )
