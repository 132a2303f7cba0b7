"""Members of a tar, found by their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs.archives.windows import Bytes, Member, is_utf8, shown, too_long_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    _Trouble: TypeAlias = tuple[ErrorCode, str] | tuple[None, None]

_TAR_BLOCK = 512
_MAX_TAR_EXTENSION_BYTES = 1 << 20  # a member's long name and attributes; real ones have 4 KiB
_MAX_PADDING_BYTES = 64 << 20  # zeros at the end; tapes' records have a few MiB


def tar_members(
    source: Bytes, max_members: int, is_label: Callable[[str], bool] | None = None
) -> Iterator[Member]:
    """The members of a tar (ustar, GNU, pax) in order; tars joined end to end give those of all.

    Args:
        source: the archive.
        max_members: an archive with more is too large.
        is_label: for which names to read the content, up to `MAX_LABEL_BYTES`.

    Raises:
        ImageRejected: after the members found, where the archive is cut, damaged or too large.
        OSError: as `storage.read_range`.
    """
    offset = 0
    count = 0
    joined = False
    long_name: bytes | None = None
    attributes: dict[str, bytes] = {}
    while (found := _next_header(source, offset)) is not None:
        start, header, size = found
        if start != offset:  # another tar
            joined = True
            offset, long_name, attributes = start, None, {}
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
        raw_name = raw_name or _tar_name(header)
        sparse = kind == b"S" or any(key.startswith("GNU.sparse.") for key in attributes)
        if kind == b"S":
            data = _behind_sparse_map(source, header, data)
        if "size" in attributes:
            size = _pax_size(attributes["size"], offset)
        long_name, attributes = None, {}
        name = shown(raw_name)
        if kind in b"123456":
            size = 0  # whatever the header says, they have no data
        count += 1
        if count > max_members:
            raise ImageRejected(ErrorCode.TOO_LARGE, f"It has more than {max_members:,} members.")
        trouble = _tar_trouble(kind, sparse, raw_name)
        # Read before the search for the end, since a stream does not go back.
        content = _label(source, data, size, trouble) if is_label and is_label(name) else None
        if not source.reaches(data + size):
            raise ImageRejected(ErrorCode.TRUNCATED, f"The archive ends inside {name[:200]!r}.")
        offset = data + _padded(size)
        if name.endswith("/") or kind in b"3456DVMN":
            continue
        yield Member(name, data, size, size, trouble[0], trouble[1], None, not joined, content)


def _label(source: Bytes, offset: int, size: int, trouble: _Trouble) -> bytes | ImageRejected:
    """The text of a member that holds a label, or why it cannot be read."""
    code, detail = trouble
    if code is not None:
        return ImageRejected(code, detail or "")
    return too_long_label(size) or source.read_at(offset, size)


def _tar_trouble(kind: bytes, sparse: bool, raw_name: bytes) -> _Trouble:
    """Why a member cannot be read, or nothing."""
    if kind in b"12":
        return ErrorCode.UNSUPPORTED, "It is a link inside an archive."
    if sparse:
        return ErrorCode.UNSUPPORTED, "It is a sparse file inside an archive."
    if not is_utf8(raw_name):
        return ErrorCode.UNREADABLE, "Its name is not valid UTF-8."
    return None, None


def _next_header(source: Bytes, offset: int) -> tuple[int, bytes, int] | None:
    """The next header with a right checksum, its offset, and the size in it.

    None at the end. An end mark does not count if another tar follows it.
    """
    end_mark = offset
    while True:
        block = source.read_at(offset, _TAR_BLOCK)
        if len(block) < _TAR_BLOCK or block.strip(b"\0"):
            break
        offset += _TAR_BLOCK
        if offset - end_mark > _MAX_PADDING_BYTES:
            raise ImageRejected(
                ErrorCode.TOO_LARGE, f"More than {_MAX_PADDING_BYTES:,} zeros follow its end mark."
            )
    if offset > end_mark and not block.strip(b"\0"):
        return None
    size = _size_in(block)
    if size is not None:
        return offset, block, size
    if offset > end_mark:
        raise ImageRejected(
            ErrorCode.UNREADABLE, f"The bytes after its end mark at byte {offset:,} are not a tar."
        )
    if len(block) == _TAR_BLOCK:
        at = f"It is damaged at byte {offset:,}." if offset else "It is not a tar archive."
        raise ImageRejected(ErrorCode.UNREADABLE, at)
    if offset == 0:
        code = ErrorCode.UNREADABLE if block else ErrorCode.EMPTY
        raise ImageRejected(code, "It is not a tar archive.")
    raise ImageRejected(
        ErrorCode.TRUNCATED, f"The archive ends after {offset:,} bytes without its end mark."
    )


def _size_in(header: bytes) -> int | None:
    """The size in a header; None if the header is cut or its checksum is wrong."""
    if len(header) < _TAR_BLOCK:
        return None
    try:
        size = _tar_number(header[124:136])
        checksum = _tar_number(header[148:156])
    except ValueError:
        return None
    return size if checksum == 256 + sum(header[:148]) + sum(header[156:]) else None


def _tar_extension(source: Bytes, offset: int, size: int) -> bytes:
    """The records after a header that describe the next one."""
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
    """Where the data of an old GNU sparse file begins: after the further blocks of its map."""
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
            space = data.index(b" ", position)
            length = int(data[position:space])
            record = data[space + 1 : position + length]
            key, separator, value = record.partition(b"=")
            inside = space < position + length <= len(data)
            if not (inside and separator and record.endswith(b"\n")):
                raise ValueError("not a record")
        except ValueError:
            raise ImageRejected(
                ErrorCode.UNREADABLE, f"It is damaged at byte {offset:,}."
            ) from None
        attributes[key.decode("utf-8", "replace")] = value[:-1]
        position += length
    return attributes
