"""Members of a zip, found in its directory, or by their own headers if it has none."""

from __future__ import annotations

import re
import stat
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs.archives.windows import Beginning, FileBytes, Member, SizedBytes, is_utf8, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

_ZIP_LOCAL_BYTES = 30
# A local header's extra field may be longer than the directory's; tools add some dozens of bytes.
_ZIP_SLACK_BYTES = 64
ZIP_LONGEST_HEADER_BYTES = _ZIP_LOCAL_BYTES + 2 * 65535
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")
_ZIP_ENTRY = struct.Struct("<4s6H3L5H2L")
_ZIP_LOCAL = struct.Struct("<4s5H3L2H")
_LARGEST = (1 << 63) - 1  # that a plan's int64 holds
_LOCAL_MAGIC = b"PK\3\4"
# Bytes of the checksum and sizes behind a streamed member's data: none, with their mark or without
# it, in zip64 form or not.
_DESCRIPTORS = (0, 12, 16, 20, 24)
_LONGEST_DESCRIPTOR = max(_DESCRIPTORS)
_NEWEST_VERSION = 63  # needed to extract, that zipfile takes
_UNICODE_PATH = 0x7075  # Info-ZIP's extra field with a name in UTF-8
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 20: "zstd"}
_METHODS |= {93: "zstd", 95: "xz", 96: "JPEG recompression", 98: "PPMd"}
# In Shift-JIS, GBK and Big5 this byte is the second half of letters, too.
_BACKSLASH = re.compile(r"(?<![^\x00-\x7f])\\")
_NO_SPANS: npt.NDArray[np.uint64] = np.empty((0, 2), np.uint64)


class _DamagedError(Exception):
    """The directory of a zip is damaged, or damaged from here on."""


_MOST_JOINED = 100  # zips in one file
_Directory: TypeAlias = tuple[int, int, int]  # as `_zip_directory` gives it


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
    extra: bytes
    needed: int
    """Version of zip."""


def zip_members(file: FileBytes, max_members: int) -> Iterator[Member]:
    """The members of a zip in the order of its directory, then those found by their headers only.

    Zips joined end to end give the members of all; zipfile finds only those of the last.

    Raises:
        ImageRejected: after the members found, where the archive is cut, damaged or too large.
        OSError: as `storage.read_range`.
    """
    if not file.size:
        raise ImageRejected(ErrorCode.EMPTY, "The file has no bytes.")
    joined = _joined(file)
    trouble: ImageRejected | None = None
    if len(joined) > _MOST_JOINED:
        detail = f"More than {_MOST_JOINED} zips are joined to one file."
        trouble = ImageRejected(ErrorCode.TOO_LARGE, detail)
    for number, (part, directory) in enumerate(joined[::-1], 1):
        try:
            for member in _members_of(part, directory, max_members):
                max_members -= 1
                yield member if number == len(joined) else member._replace(by_name=False)
        except ImageRejected as rejected:
            trouble = trouble or rejected
    if trouble is not None:
        raise trouble


def _joined(file: FileBytes) -> list[tuple[SizedBytes, _Directory | ImageRejected]]:
    """The zips in a file, each up to its end, with the place of its directory; the last one first."""
    found: list[tuple[SizedBytes, _Directory | ImageRejected]] = []
    part: SizedBytes = file
    while len(found) <= _MOST_JOINED:
        try:
            directory: _Directory | ImageRejected = _zip_directory(part) or _directory_missing()
        except _DamagedError:
            directory = _directory_damaged()
        except ImageRejected as rejected:
            return [*found, (part, rejected)]
        found.append((part, directory))
        # Other bytes before a zip are mostly a program that unpacks it.
        if isinstance(directory, ImageRejected) or not directory[2]:
            break
        start, length, before = directory
        sound = not length or file.read_at(start, 4) == b"PK\1\2"
        if not sound or file.read_at(0, 4) != _LOCAL_MAGIC:
            break
        part = Beginning(file, before)
    return found


def _members_of(
    file: SizedBytes, directory: _Directory | ImageRejected, max_members: int
) -> Iterator[Member]:
    spans, shift = _NO_SPANS, 0
    if isinstance(directory, ImageRejected):
        damage: ImageRejected | None = directory
        if directory.code == ErrorCode.TRUNCATED and file.read_at(0, 4) != _LOCAL_MAGIC:
            raise ImageRejected(ErrorCode.UNREADABLE, "It is not a zip archive.")
        if directory.code == ErrorCode.UNSUPPORTED:
            raise directory
    else:
        start, length, shift = directory
        # The directory is read twice, not kept: that of a million members has a hundred megabytes.
        spans, damage, by_name = _zip_spans(file, start, length, max_members)
        overlapping = _overlapping(spans)
        entries = _zip_entries(file, start, length)
        looked_at: set[bool] = set()
        # Up to the damage: anything may come in place of a record.
        for overlaps, entry in zip(overlapping, entries, strict=False):
            plain = entry.raw_name.isascii() and b"\\" not in entry.raw_name
            if by_name and plain not in looked_at and not entry.raw_name.endswith(b"/"):
                # A look at one member of each kind: programs differ in all names, or in odd ones.
                looked_at.add(plain)
                own = _local_header(file, entry.offset + shift)
                by_name = own is None or _zip_name(own) == _zip_name(entry)
            for member in _member(file, entry, shift, overlaps=bool(overlaps)):
                yield member if by_name else member._replace(by_name=False)
    if damage is not None:
        if damage.code != ErrorCode.TOO_LARGE:
            yield from _members_by_headers(file, max_members, spans, shift)
        raise damage


def _directory_missing() -> ImageRejected:
    return ImageRejected(
        ErrorCode.TRUNCATED,
        "The directory at the end of the zip is missing; later members are lost.",
    )


def _member(file: SizedBytes, entry: _Entry, shift: int, *, overlaps: bool) -> Iterator[Member]:
    """The member of a record; nothing for a folder's."""
    name = _zip_name(entry)
    true_name = _true_name(entry, name)
    if (true_name or name).endswith("/"):
        return
    error, detail = _zip_trouble(entry)
    offset = entry.offset + shift
    if error is None and overlaps:
        error, detail = ErrorCode.TOO_LARGE, "It shares its bytes with another member (a bomb)."
    if error is None and offset + entry.header_bytes + entry.compressed > file.size:
        error, detail = ErrorCode.TRUNCATED, "The archive ends before it."
    span = entry.header_bytes + entry.compressed + _ZIP_SLACK_BYTES
    # From some version of Python on zipfile knows it by what stands in this field.
    by_name = not _extra_field(entry.extra, _UNICODE_PATH)
    yield Member(name, offset, span, entry.size, error, detail, true_name, by_name)


def extract_zip_member(span: bytes, size: int) -> bytes:
    """The file in the bytes of a zip from its local header on (stored or deflated).

    Args:
        span: from the local header to the end of the data, or further.
        size: of the file in bytes, as the directory says; memory is bounded by it.

    Raises:
        ImageRejected: it is damaged, or not of that size. `truncated` where `span` is too short.
    """
    if len(span) < _ZIP_LOCAL_BYTES or span[:4] != _LOCAL_MAGIC:
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
        raise ImageRejected(ErrorCode.UNSUPPORTED, _unknown_method(method))
    if len(data) < size:
        raise ImageRejected(ErrorCode.TRUNCATED, "The archive ends inside it.")
    # The checksum comes after the data; zip64 has all ones for a size that comes there too.
    if flags & 8 and (not crc or compressed in {0, 0xFFFFFFFF}):
        if after[:4] != b"PK\7\x08":
            return data
        crc = int.from_bytes(after[4:8], "little")
    if zlib.crc32(data) != crc:
        raise ImageRejected(ErrorCode.UNREADABLE, "Its checksum is wrong.")
    return data


def names_itself(read: Callable[[int], bytes], name: str) -> bool:
    """Whether a member has this name in its own header as well: zipfile wants it.

    Args:
        read: so many bytes from there on.
        name: as `Member.name`.
    """
    header = read(_ZIP_LOCAL_BYTES + 4 * len(name) + 1)
    if len(header) < _ZIP_LOCAL_BYTES:
        return False
    fields = _ZIP_LOCAL.unpack_from(header)
    return name == _decoded(header[_ZIP_LOCAL_BYTES:][: fields[9]], fields[2])


def _zip_directory(file: SizedBytes) -> tuple[int, int, int] | None:
    """Where the directory starts, its length, and by how much all offsets are shifted.

    Raises:
        _DamagedError: it is nowhere in the file.
        ImageRejected: the archive is one part of several.
    """
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
        raise _DamagedError
    return start + shift, length, shift


def _zip_entries(file: SizedBytes, start: int, length: int) -> Iterator[_Entry]:
    end = start + length
    chunk, chunk_start = b"", start
    position = start
    while position < end:
        chunk_end = chunk_start + len(chunk)
        if chunk_end < min(end, position + _ZIP_ENTRY.size + 3 * 65535):  # the longest record
            chunk = file.read_at(position, min(1 << 20, end - position))
            chunk_start = position
        at = position - chunk_start
        if at + _ZIP_ENTRY.size > len(chunk) or chunk[at : at + 4] != b"PK\1\2":
            raise _DamagedError
        fields = _ZIP_ENTRY.unpack_from(chunk, at)
        flags, method = fields[3:5]
        compressed, size, n, e, c = fields[8:13]
        attributes, offset = fields[15:17]
        after = at + _ZIP_ENTRY.size + n + e + c
        if after > len(chunk):
            raise _DamagedError
        name_end = at + _ZIP_ENTRY.size + n
        raw_name = chunk[at + _ZIP_ENTRY.size : name_end]
        extra = chunk[name_end : name_end + e]
        if 0xFFFFFFFF in (compressed, size, offset):
            wide = _zip64_numbers(extra)
            try:
                size = next(wide) if size == 0xFFFFFFFF else size
                compressed = next(wide) if compressed == 0xFFFFFFFF else compressed
                offset = next(wide) if offset == 0xFFFFFFFF else offset
            except StopIteration:
                raise _DamagedError from None
        # Here alone the numbers are bounded. What lies outside of the file is cut to its size,
        # which is outside as well: the header alone goes beyond it.
        yield _Entry(
            raw_name,
            flags,
            method,
            min(compressed, file.size),
            min(size, _LARGEST),
            attributes >> 16,
            min(offset, file.size),
            _ZIP_LOCAL_BYTES + n + e,
            extra,
            fields[2] & 0xFF,
        )
        position = chunk_start + after


def _extra_field(extra: bytes, wanted: int) -> bytes:
    """The first extra field with this tag, b"" for none."""
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == wanted:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return b""


def _zip64_numbers(extra: bytes) -> Iterator[int]:
    body = _extra_field(extra, 1)
    for at in range(0, len(body) - 7, 8):
        yield int.from_bytes(body[at : at + 8], "little")


def _zip_spans(
    file: SizedBytes, start: int, length: int, max_members: int
) -> tuple[npt.NDArray[np.uint64], ImageRejected | None, bool]:
    """First and last byte of every member, as the directory claims them: uint64, (members, 2).

    The second value says why the directory names more members than these, if it does; the third
    whether zipfile reads this directory.
    """
    spans = bytearray()
    damage: ImageRejected | None = None
    by_name = True
    try:
        for count, entry in enumerate(_zip_entries(file, start, length)):
            if count >= max_members:
                damage = _too_many(max_members)
                break
            first = _ZIP_LOCAL_BYTES + len(entry.raw_name)
            spans += struct.pack("<2Q", entry.offset, entry.offset + first + entry.compressed)
            by_name = by_name and _is_read_by_zipfile(entry)
    except _DamagedError:
        damage = _directory_damaged()
    found = np.frombuffer(spans, dtype="<u8").reshape(-1, 2)
    return found, damage, by_name and damage is None


def _is_read_by_zipfile(entry: _Entry) -> bool:
    """Whether it reads a directory with this record; one that it does not costs it all others."""
    at, extra = 0, entry.extra
    while len(extra) - at >= 4:
        at += 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
    is_name = not entry.flags & 0x800 or is_utf8(entry.raw_name)
    return at <= len(extra) and is_name and entry.needed <= _NEWEST_VERSION


def _too_many(max_members: int) -> ImageRejected:
    return ImageRejected(ErrorCode.TOO_LARGE, f"It has more than {max_members:,} members.")


def _directory_damaged() -> ImageRejected:
    return ImageRejected(
        ErrorCode.UNREADABLE,
        "The directory of the zip is damaged; members that it does not list are found by "
        "their own headers, and some may be lost.",
    )


def _overlapping(spans: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which members to leave out, so that no two of the others share a byte.

    As many as possible stay: a member that lies about its size goes, and those that it covers stay.
    """
    overlapping = np.zeros(len(spans), dtype=np.bool_)
    by_start = spans[np.argsort(spans[:, 0], kind="stable")]
    if (by_start[1:, 0] >= np.maximum.accumulate(by_start[:, 1])[:-1]).all():
        return overlapping
    ended = 0
    for at in np.argsort(spans[:, 1], kind="stable").tolist():
        start, end = spans[at].tolist()
        if start < ended:
            overlapping[at] = True
        else:
            ended = end
    return overlapping


def _zip_name(entry: _Entry) -> str:
    return _decoded(entry.raw_name, entry.flags)


def _decoded(raw_name: bytes, flags: int) -> str:
    """A name as Python's zipfile reads it, or fsspec would not find the member under it."""
    name = shown(raw_name) if flags & 0x800 else raw_name.decode("cp437")
    return name.split("\0", 1)[0]


def _true_name(entry: _Entry, name: str) -> str | None:
    r"""The original name, if zipfile reads another `name`: UTF-8 without its flag.

    Some archives made on Windows have `\` between folders.
    """
    raw = entry.raw_name
    if entry.flags & 0x800:
        true_name = name.replace("\\", "/") if is_utf8(raw) else name
    else:
        # Info-ZIP's: a version, the checksum of the name that it replaces, and UTF-8.
        field = _extra_field(entry.extra, _UNICODE_PATH)
        if len(field) > 5 and field[0] == 1 and field[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            raw = field[5:]
        if is_utf8(raw):  # text in an old code page is hardly ever UTF-8 as well
            true_name = raw.decode().split("\0", 1)[0].replace("\\", "/")
        else:
            true_name = _BACKSLASH.sub("/", name)
    return None if true_name == name else true_name


def _zip_trouble(entry: _Entry) -> tuple[ErrorCode | None, str | None]:
    if entry.flags & 0x2041:
        return ErrorCode.UNSUPPORTED, "It is encrypted."
    if entry.method not in {0, 8}:
        return ErrorCode.UNSUPPORTED, _unknown_method(entry.method)
    if stat.S_ISLNK(entry.mode):
        return ErrorCode.UNSUPPORTED, "It is a link inside an archive."
    if entry.method == 0 and entry.size != entry.compressed:
        return ErrorCode.UNREADABLE, "The directory of the zip contradicts itself about it."
    if entry.flags & 0x800 and not is_utf8(entry.raw_name):
        return ErrorCode.UNREADABLE, "Its name is not valid UTF-8."
    return None, None


def _unknown_method(method: int) -> str:
    name = _METHODS.get(method, f"method {method}")
    return f"It is compressed with {name}: only deflate is read."


def _members_by_headers(
    file: SizedBytes, max_members: int, known: npt.NDArray[np.uint64], shift: int
) -> Iterator[Member]:
    """Members by their own headers, until these end or lack the size.

    Args:
        file: the archive.
        max_members: an archive with more is too large; known members count.
        known: first and last byte of the members in the directory, which are not given again.
        shift: of their offsets.
    """
    known = known[np.argsort(known[:, 0], kind="stable")]
    left = max_members - len(known)
    offset = 0
    while (header := _local_header(file, offset)) is not None:
        compressed = header.compressed
        at = int(np.searchsorted(known[:, 0], np.uint64(max(0, header.offset - shift))))
        told = at < len(known) and int(known[at, 0]) + shift == header.offset
        if header.flags & 8 and not compressed:  # of a stream: only the directory has the size
            if not told:
                return
            first = _ZIP_LOCAL_BYTES + len(header.raw_name)
            compressed = int(known[at, 1] - known[at, 0]) - first
        length = header.header_bytes + compressed
        if header.offset + length > file.size:
            return
        offset = header.offset + length
        if told:
            continue
        if left <= 0:
            raise _too_many(max_members)
        left -= 1
        name = _zip_name(header)
        true_name = _true_name(header, name)
        if not (true_name or name).endswith("/"):
            trouble = _zip_trouble(header)
            yield Member(name, header.offset, length, header.size, *trouble, true_name, False)


def _local_header(file: SizedBytes, offset: int) -> _Entry | None:
    """A member's own header at an offset, or after the checksum and sizes that may come first."""
    start = file.read_at(offset, _LONGEST_DESCRIPTOR + _ZIP_LOCAL_BYTES)
    at = start.find(_LOCAL_MAGIC)
    fixed = start[at : at + _ZIP_LOCAL_BYTES] if at in _DESCRIPTORS else b""
    if len(fixed) < _ZIP_LOCAL_BYTES:
        return None
    fields = _ZIP_LOCAL.unpack(fixed)
    flags, method, compressed, size, name_bytes, extra_bytes = fields[2], fields[3], *fields[7:]
    rest = file.read_at(offset + at + _ZIP_LOCAL_BYTES, name_bytes + extra_bytes)
    raw_name, extra = rest[:name_bytes], rest[name_bytes:]
    if size == 0xFFFFFFFF or compressed == 0xFFFFFFFF:
        wide = [*_zip64_numbers(extra)]
        if len(wide) >= 2:
            size, compressed = wide[:2]
    return _Entry(
        raw_name,
        flags,
        method,
        compressed,
        min(size, _LARGEST),
        0,
        offset + at,
        _ZIP_LOCAL_BYTES + name_bytes + extra_bytes,
        extra,
        fields[1] & 0xFF,
    )
