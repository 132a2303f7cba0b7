"""Damage that costs no pixel: files that viewers show whole, and that Pillow complains about.

Whether a picture is whole is told by its pixels: were all of them decoded, it is.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Colour type -> lengths of the chunk that makes values transparent.
_TRANSPARENCY = {0: (2,), 2: (6,), 3: range(1, 257)}
_XMP = b"XML:com.adobe.xmp\0"  # may hold the orientation
_MAX_XMP = 1 << 20
# First column and row, and the steps to the next ones, of the passes of an interlaced PNG.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_STEP = 1 << 20  # bytes inflated at once
_END_MARK = b"\xff\xd9"
# Where entropy-coded data is missing, these bytes are decoded in its place: other pixels.
_NOISE = bytes((0xAA, 0x35)) * 64


def essential_png(data: bytes) -> bytes:
    """The file without the chunks that have no part in its pixels, whatever they hold.

    Pillow refuses a PNG for large or damaged text, profiles, times or gammas; viewers skip them.
    Of an animation the picture that viewers without animations show is left.
    """
    kept = [PNG_MAGIC]
    at = len(PNG_MAGIC)
    dropped = False
    while len(data) - at >= 8:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if (
            kind == b"IDAT" or not kind[0] & 0x20 or _is_needed(kind, data, at + 8, end)
        ):  # critical: for Pillow to judge
            kept.append(data[at:end])
        else:
            dropped = True
        at = end
        if kind == b"IEND":
            break
    return b"".join(kept) if dropped else data


def _is_needed(kind: bytes, data: bytes, start: int, end: int) -> bool:
    """Whether a chunk, its content from `start` and its checksum before `end`, has a part."""
    if kind == b"iTXt":
        if end - start > _MAX_XMP or not data.startswith(_XMP + b"\0", start):  # uncompressed
            return False
    elif kind == b"tRNS":
        if end - start - 4 not in _TRANSPARENCY.get(data[25], ()):
            return False
    elif kind != b"eXIf":
        return False
    checksum = zlib.crc32(data[start - 4 : end - 4])
    return data[end - 4 : end] == checksum.to_bytes(4, "big")


def lacks_rows(data: bytes, image: Image.Image) -> bool:
    """Whether a PNG's data ends before its last row: Pillow leaves the rest black, without a word.

    Args:
        data: the file.
        image: the same, loaded.
    """
    # Rows that did not come are 0. Interlaced ones come last in odd rows.
    last = np.asarray(image.crop((0, max(0, image.height - 2), image.width, image.height)))
    if last.reshape(len(last), -1).any(axis=1).all():
        return False
    width, height, depth, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    expected = 0
    for x, y, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * bits + 7) // 8)
    return _inflated(data, expected) < expected


def _inflated(data: bytes, wanted: int) -> int:
    """Bytes that the data of a PNG holds, counted up to what is wanted."""
    inflater, found, header = zlib.decompressobj(-zlib.MAX_WBITS), 0, 2  # its checksum is unread
    try:
        for start, end in _image_data(data):
            piece = data[start + header : end]
            header = max(0, header - (end - start))
            while piece and found < wanted and not inflater.eof:
                found += len(inflater.decompress(piece, _STEP))
                piece = inflater.unconsumed_tail
    except zlib.error:  # behind all that Pillow needed, which had no complaint
        return wanted
    return found


def _image_data(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the content of each chunk of a PNG that holds pixels."""
    at = len(PNG_MAGIC)
    while len(data) - at >= 8:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IDAT":
            yield at + 8, at + 8 + length
        at += 12 + length


def with_end_mark(data: bytes) -> bytes | None:
    """A JPEG that lacks only its end mark, with one; None where pixels are missing too.

    Pixels are missing where the scans do not give every coefficient in full, or where the picture
    changes with the bytes that follow the last one.
    """
    if not data.startswith(b"\xff\xd8") or not _gives_all_coefficients(data):
        return None
    data = data.rstrip(b"\xff")  # half of the end mark
    first = _all_pixels(data + _END_MARK)
    if first is None or first != _all_pixels(data + _NOISE + _END_MARK):
        return None
    return data + _END_MARK


def _all_pixels(data: bytes) -> tuple[tuple[int, int], int] | None:
    """The size and a checksum of all pixels, None where they cannot be decoded."""
    try:
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            return image.size, zlib.crc32(np.asarray(image).data)
    except Exception:
        return None


def _gives_all_coefficients(data: bytes) -> bool:
    """Whether the scans of a JPEG, as far as they have begun, give each coefficient to its last bit."""
    missing: set[tuple[int, int]] = set()
    for marker, start, end in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame
            if missing or end - start < 6:
                return False
            components = data[start + 6 : end : 3]
            missing = {(component, k) for component in components for k in range(64)}
        elif marker == 0xDA:  # a scan
            count = data[start] if start < end else 0
            parameters = data[start + 1 + 2 * count : end]
            if len(parameters) != 3:
                return False
            first, last, bits = parameters
            if bits & 15 == 0:  # the lowest bit
                names = data[start + 1 : start + 1 + 2 * count : 2]
                missing -= {(name, k) for name in names for k in range(first, last + 1)}
    return not missing


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment of the first JPEG in the file."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 4:
        marker = data[at + 1]
        if marker == 0xFF:  # fills
            at += 1
        elif marker in (0, 1) or 0xD0 <= marker <= 0xD8:  # entropy-coded data, restart
            at += 2
        elif marker == 0xD9:
            return
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if end > len(data):
                return
            yield marker, at + 4, end
            at = end
