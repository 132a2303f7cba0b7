"""Damaged pictures: what is whole is told from what is cut, and `--truncated decode` takes what is there."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.pixels import DecodeLimits, Preprocessing, decode, whole_pixels

SIDE = 192
SAME = Preprocessing(SIDE, SIDE)
LENIENT = DecodeLimits(truncated="decode")
RANDOM = np.random.default_rng(1)
NOISE = RANDOM.integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
PICTURE = Image.fromarray(NOISE).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
KINDS = {
    "baseline": ("JPEG", "RGB", {"quality": 90}),
    "grey": ("JPEG", "L", {"quality": 90}),
    "restarts": ("JPEG", "RGB", {"restart_marker_rows": 1, "subsampling": 2}),
    "progressive": ("JPEG", "RGB", {"progressive": True}),
    "cmyk": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "palette": ("PNG", "P", {}),
    "alpha": ("PNG", "RGBA", {}),
}


def saved(kind):
    format_, mode, options = KINDS[kind]
    stream = io.BytesIO()
    PICTURE.convert(mode).save(stream, format_, **options)
    return stream.getvalue()


def rejection(data, limits):
    with pytest.raises(ImageRejected) as caught:
        decode(data, SAME, limits)
    return caught.value.code


def zeros_for_the_rest(data, at):
    return data[:at] + bytes(len(data) - at)


@pytest.mark.parametrize("damage", [lambda data, at: data[:at], zeros_for_the_rest])
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_picture(kind, damage):
    """It is rejected; on request the first rows are those of the whole, and the share is about half."""
    data = saved(kind)
    whole = decode(data, SAME, LENIENT)
    assert whole.decoded == 1
    shares = []
    for fraction in (0.3, 0.5, 0.8):
        cut = damage(data, int(len(data) * fraction))
        assert rejection(cut, DecodeLimits()) == ErrorCode.TRUNCATED
        decoded = decode(cut, SAME, LENIENT)
        shares.append(decoded.decoded)
        assert (decoded.width, decoded.height) == (SIDE, SIDE)
        if kind != "progressive":
            assert decoded.decoded == pytest.approx(fraction, abs=0.15)
            rows = int(SIDE * decoded.decoded) - 16
            assert np.array_equal(decoded.pixels[:rows], whole.pixels[:rows])
    assert 0 < shares[0] < shares[1] < shares[2] < 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_picture(kind):
    """Without a row there is no picture, whatever is asked for."""
    data = saved(kind)
    start = data.index(b"IDAT") + 4 if data.startswith(b"\x89PNG") else data.index(b"\xff\xda") + 14
    assert rejection(data[:start], LENIENT) == ErrorCode.TRUNCATED


@pytest.mark.parametrize("format_", ["WEBP", "AVIF", "JPEG2000"])
def test_other_formats_stay_truncated(format_):
    """Their decoders give nothing of a half."""
    stream = io.BytesIO()
    PICTURE.save(stream, format_)
    data = stream.getvalue()
    assert rejection(data[: len(data) // 2], LENIENT) == ErrorCode.TRUNCATED


def chunks(data):
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("wrong", [b"\0\0\0\0", b"", b"\xff"])
def test_a_wrong_checksum_behind_all_rows_of_a_png(wrong, interlaced):
    """Zlib's checksum says nothing of rows that are all there: it is whole."""
    data = saved("png")
    header = next(chunks(data))[1]
    rows = np.asarray(PICTURE)
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
        ]
        parts = [rows[y::down, x::right] for y, x, down, right in [*passes, (1, 0, 2, 1)]]
        header = header[:-1] + b"\1"
    else:
        parts = [rows]
    content = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    packed = zlib.compress(content)[:-4] + wrong
    made = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
        made += struct.pack(">I", len(body)) + kind + body
        made += struct.pack(">I", zlib.crc32(kind + body))
    decoded = decode(made, SAME, DecodeLimits())
    assert np.array_equal(decoded.pixels, rows)
    assert decoded.decoded == 1


def test_zeros_behind_the_end_are_no_damage():
    """A JPEG that ends where it says is whole, whatever it is padded with."""
    data = saved("baseline")
    whole = decode(data, SAME, DecodeLimits()).pixels
    for more in (bytes(1000), b"trailer" + bytes(1000)):
        assert np.array_equal(decode(data + more, SAME, DecodeLimits()).pixels, whole)
    assert np.array_equal(decode(data[:-2] + bytes(1000), SAME, DecodeLimits()).pixels, whole)


def test_only_two_ways():
    """Another word is refused."""
    with pytest.raises(UserInputError, match="--truncated yes"):
        DecodeLimits(truncated="yes")


@pytest.mark.parametrize("count", [0, 2, 9, 255])
def test_a_scan_of_other_components_than_its_header_holds(count):
    """A cut JPEG whose last scan header lies about its length is truncated, whatever follows."""
    data = bytearray(saved("baseline"))
    data[data.rindex(b"\xff\xda") + 4] = count
    assert rejection(bytes(data[: len(data) // 2]), DecodeLimits()) == ErrorCode.TRUNCATED


def test_data_that_expands_beyond_the_picture_takes_no_memory():
    """Of a damaged PNG no more is expanded than its header's rows."""
    packed = zlib.compress(bytes(64 << 20))
    whole = saved("png")
    start = whole.index(b"IDAT") - 4
    chunk = len(packed).to_bytes(4, "big") + b"IDAT" + packed + b"none"
    tracemalloc.start()
    try:
        whole_pixels.salvaged(whole[:start] + chunk, SIDE * SIDE)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_damaged_header_takes_no_memory():
    """Its numbers are bounded before they are used, also where Pillow refuses it for its checksum."""
    data = bytearray(saved("png"))
    data[20:24] = (100_000).to_bytes(4, "big")  # the height
    tracemalloc.start()
    try:
        for limits in (DecodeLimits(max_pixels=1 << 20), replace(LENIENT, max_pixels=1 << 20)):
            assert rejection(bytes(data), limits) == ErrorCode.TRUNCATED
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_description_of_any_size_is_not_read():
    """Of text that may hold the orientation, no more than a mebibyte is handed on."""
    whole = saved("png")
    at = whole.index(b"IDAT") - 4
    body = b"XML:com.adobe.xmp\0\0\0\0\0" + b" " * (65 << 20)  # more than Pillow takes
    checksum = zlib.crc32(b"iTXt" + body).to_bytes(4, "big")
    chunk = len(body).to_bytes(4, "big") + b"iTXt" + body + checksum
    assert decode(whole[:at] + chunk + whole[at:], SAME, DecodeLimits()).format == "PNG"
