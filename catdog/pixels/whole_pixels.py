"""Damage that costs no pixel: files that viewers show whole, but Pillow complains about.

A picture is whole if all of its pixels were decoded.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

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
_STEP = 1 << 12  # bytes of a PNG inflated at once
_MOST = 1 << 20  # bytes that these may become at once
_ZEROS = 64  # so many at the end are no data
_END_MARK = b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"
# Where entropy-coded data is missing, these bytes are decoded in its place: other pixels.
_NOISE = bytes((0xAA, 0x35)) * 64


def essential_png(data: bytes) -> bytes:
    """The file without the chunks that do not affect its pixels, whatever they contain.

    Pillow refuses a PNG with large or damaged text, profiles, times or gammas; viewers skip them.
    Of an animation, this keeps the picture that viewers without animation show.
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
    expected = _png_bytes(data)
    return sum(map(len, _inflated(data, expected))) < expected


def _png_bytes(data: bytes) -> int:
    """Bytes of all rows of a PNG, as its header says."""
    width, height, depth, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    expected = 0
    for x, y, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * bits + 7) // 8)
    return expected


def _inflated(data: bytes, wanted: int) -> Iterator[bytes]:
    """What the data of a PNG holds, up to so many bytes, or up to the first damage."""
    inflater, found, header = zlib.decompressobj(-zlib.MAX_WBITS), 0, 2  # its checksum is unread
    for start, end in _image_data(data):
        first = start + header
        header = max(0, header - (end - start))
        for at in range(first, end, _STEP):
            piece = data[at : min(at + _STEP, end)]
            while piece and found < wanted and not inflater.eof:
                before = inflater.copy()
                try:
                    out = inflater.decompress(piece, min(_MOST, wanted - found))
                except zlib.error:
                    yield from _before_damage(before, piece)
                    return
                found += len(out)
                yield out
                piece = inflater.unconsumed_tail


def _before_damage(inflater: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    """What a piece gives that is damaged somewhere."""
    with contextlib.suppress(zlib.error):
        for at in range(len(piece)):
            yield inflater.decompress(piece[at : at + 1])


def _image_data(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the content of each chunk of a PNG that holds pixels."""
    at = len(PNG_MAGIC)
    while len(data) - at >= 8:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IDAT":
            yield at + 8, at + 8 + length
        at += 12 + length


class Salvaged(NamedTuple):
    """What is left of a damaged picture."""

    data: bytes
    """A file that Pillow decodes, what is missing grey or black."""

    share: float
    """Of the picture, above 0; 1 if all of it is there."""


def salvaged(data: bytes, max_pixels: int) -> Salvaged | None:
    """What is left of a JPEG or PNG that Pillow complains about; None if nothing is, or for other formats.

    Also None for a PNG that claims more than `max_pixels`; for a JPEG, Pillow's own limit applies.
    """
    if data.startswith(b"\xff\xd8"):
        # Half of the end mark, or a camera's zeros, are no pixels.
        data = (data.rstrip(b"\0") if ends_in_zeros(data) else data).rstrip(b"\xff")
        share = _jpeg_share(data)
        return Salvaged(data + _END_MARK, share) if share else None
    return _salvaged_png(data, max_pixels) if data.startswith(PNG_MAGIC) else None


def _salvaged_png(data: bytes, max_pixels: int) -> Salvaged | None:
    """A PNG with the rows that are there, and zeros for the others."""
    if ends_in_zeros(data):
        data = data.rstrip(b"\0")
    try:
        width, height = struct.unpack_from(">II", data, 16)
        expected = _png_bytes(data)
    except (struct.error, KeyError):
        return None
    if width * height > max_pixels:  # its header may be what is damaged
        return None
    rows = bytearray().join(_inflated(data, expected))[:expected]
    share = len(rows) / max(1, expected)
    if not share:
        return None
    rows += bytes(expected - len(rows))
    start = next(_image_data(data))[0] - 8
    body = zlib.compress(rows, 1)
    return Salvaged(data[:start] + _chunk(b"IDAT", body) + _chunk(b"IEND", b""), share)


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + checksum


def ends_in_zeros(data: bytes) -> bool:
    """Whether zeros take the place of a JPEG's or PNG's end: a camera's card, or a disk, was pulled."""
    if not data.endswith(bytes(_ZEROS)):
        return False
    if data.startswith(PNG_MAGIC):
        return _PNG_END not in data
    if not data.startswith(b"\xff\xd8") or data.rstrip(b"\0").endswith(_END_MARK):
        return False
    return not any(marker == 0xD9 for marker, _, _ in _segments(data))


def _jpeg_share(data: bytes) -> float:
    """Share of the passes over a JPEG's coefficients that are there, 1 for all, 0 for none.

    It has them all where the scans give each to its last bit, and no pixel changes with the bytes
    that follow the last one. Where pixels change, they do from the row on where the data ends.
    """
    scans = _scans(data)
    if scans is None:
        return 0.0
    passes, last = scans
    first, second = _all_pixels(data + _END_MARK), _all_pixels(data + _NOISE + _END_MARK)
    if first is None or second is None or first.shape != second.shape:
        return 0.0
    rows = (first != second).reshape(len(first), -1).any(axis=1)
    here = int(rows.argmax()) / len(rows) if rows.any() else 1.0
    all_, done = sum(map(sum, passes.values())), sum(done for done, _ in passes.values())
    return min(1.0, (done - last * (1 - here)) / all_) if all_ else 0.0


def _all_pixels(data: bytes) -> npt.NDArray[np.uint8] | None:
    """All pixels, None where they cannot be decoded."""
    try:
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image)
    except Exception:
        return None


def _scans(data: bytes) -> tuple[dict[tuple[int, int], tuple[int, int]], int] | None:
    """Passes over each coefficient that have begun and that are still to come; of the last scan, how many.

    None where the file is damaged before its first scan, or has two frames.
    """
    passes: dict[tuple[int, int], tuple[int, int]] = {}
    last = 0
    for marker, start, end in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame
            if passes:
                return None
            components = data[start + 6 : end : 3]
            passes = {(component, k): (0, 1) for component in components for k in range(64)}
        elif marker == 0xDA:  # a scan
            count = data[start] if start < end else 0
            parameters = data[start + 1 + 2 * count : end]
            if len(parameters) != 3:
                return None
            first, stop, bits = parameters[0], parameters[1] + 1, parameters[2] & 15
            names = data[start + 1 : start + 1 + 2 * count : 2]
            given = passes.keys() & {(name, k) for name in names for k in range(first, stop)}
            for each in given:
                passes[each] = (passes[each][0] + 1, bits)
            last = len(given)
    return (passes, last) if last else None


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
            yield marker, at + 2, at + 2
            return
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if end > len(data):
                return
            yield marker, at + 4, end
            at = end
