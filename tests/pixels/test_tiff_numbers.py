"""Numbers in a TIFF's tags that no picture has."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import DecodeLimits, Preprocessing, decode

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8)


def tiff(*, tags: dict[int, int], renamed: dict[int, int], compression: str = "raw") -> bytes:
    """A picture with other values for some tags, and other tags in place of some."""
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "TIFF", compression=compression)
    data = bytearray(stream.getvalue())
    (at,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from("<2H", data, entry)
        if tag in tags:
            struct.pack_into("<H" if kind == 3 else "<L", data, entry + 8, tags[tag])
        struct.pack_into("<H", data, entry, renamed.get(tag, tag))
    return bytes(data)


@pytest.mark.parametrize("rows", [0, 1, 31])
def test_strips_of_no_or_few_rows(rows):
    """Too few strips for the picture are a cut one; and none is of no rows."""
    with pytest.raises(ImageRejected, match=r"1 of \d+ pieces|damaged") as caught:
        decode(tiff(tags={278: rows}, renamed={}), Preprocessing(8, 8), DecodeLimits())
    assert "division" not in caught.value.detail


@pytest.mark.parametrize(("width", "height"), [(0, 32), (48, 0), (0, 0), (1, 1)])
def test_tiles_of_no_width_or_height(width, height):
    """As many tiles as cover the picture, or it is a cut one."""
    # Rows a strip, photometric's samples and the strip's place, as those of tiles.
    tags, renamed = {277: width, 278: height}, {273: 324, 277: 322, 278: 323, 279: 325}
    with pytest.raises(ImageRejected) as caught:
        decode(tiff(tags=tags, renamed=renamed), Preprocessing(8, 8), DecodeLimits())
    assert "division" not in caught.value.detail


@pytest.mark.parametrize(("inks", "read"), [(1, True), (2, False), (0, False)])
def test_inks_that_are_not_those_of_print(inks, read):
    """Four channels are cyan, magenta, yellow and black only where the tag of inks says so."""
    stream = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    tifffile.imwrite(stream, picture, photometric="separated", extratags=[(332, 3, 1, inks, True)])
    if read:
        assert decode(stream.getvalue(), Preprocessing(8, 8), DecodeLimits()).format == "TIFF"
        return
    with pytest.raises(ImageRejected, match="inks other than cyan") as caught:
        decode(stream.getvalue(), Preprocessing(8, 8), DecodeLimits())
    assert caught.value.code == ErrorCode.UNSUPPORTED


def written(values, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def reversed_order() -> bytes:
    """Compressed 16-bit grey whose bytes begin with their last bit."""
    data = written(GREY, compression="lzw", extratags=[(65000, 3, 1, 2, True)])
    data = bytearray(data.replace(struct.pack("<HH", 65000, 3), struct.pack("<HH", 266, 3), 1))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        for at, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            strip = np.frombuffer(data[at : at + size], np.uint8)
            data[at : at + size] = np.packbits(np.unpackbits(strip), bitorder="little").tobytes()
    return bytes(data)


def twelve_bits() -> bytes:
    """Compressed 12-bit grey, 48 pixels in the 72 bytes of a row."""
    data = written(np.zeros((32, 72), np.uint8), photometric="minisblack", compression="lzw")
    for tag, kind, stored, meant in ((256, 4, 72, 48), (258, 3, 8, 12)):
        field = struct.pack("<HHL", tag, kind, 1)
        assert data.count(field + struct.pack("<L", stored)) == 1
        data = data.replace(field + struct.pack("<L", stored), field + struct.pack("<L", meant))
    return data


def subsampled() -> bytes:
    """Uncompressed YCbCr that says that four pixels share a colour."""
    whole, shared = (struct.pack("<HHLHH", 530, 3, 2, each, each) for each in (1, 2))
    data = written(COLOURS, photometric="ycbcr")
    assert whole in data
    return data.replace(whole, shared)


COLOURS = np.zeros((32, 48, 3), np.uint8)
GREY = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint16)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (reversed_order, "reversed order"),
        (twelve_bits, "compressed 12-bit"),
        (subsampled, "YCbCr"),
    ],
    ids=["reversed", "12 bits", "subsampled"],
)
def test_kinds_that_pillow_takes_for_others(draw, said):
    """They would be other pictures, without a word."""
    with pytest.raises(ImageRejected, match=said) as caught:
        decode(draw(), Preprocessing(8, 8), DecodeLimits())
    assert caught.value.code == ErrorCode.UNSUPPORTED


@pytest.mark.parametrize("missing", [1, 3])
def test_tiles_that_are_missing(missing):
    """As with strips: what they cover would be black."""
    data = bytearray(written(PICTURE, tile=(16, 16), photometric="minisblack"))
    decode(bytes(data), Preprocessing(8, 8), DecodeLimits())
    (at,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] in (324, 325):
            struct.pack_into("<L", data, entry + 4, 6 - missing)
    with pytest.raises(ImageRejected, match=f"{6 - missing} of 6 pieces"):
        decode(bytes(data), Preprocessing(8, 8), DecodeLimits())


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("field", [256, 257, 278], ids=["width", "height", "rows"])
def test_numbers_of_compressed_pictures(field, compression):
    """Of no width, height or rows there is no picture, whoever decompresses it."""
    data = tiff(tags={field: 0}, renamed={}, compression=compression)
    with pytest.raises(ImageRejected) as rejected:
        decode(data, Preprocessing(8, 8), DecodeLimits())
    assert "division" not in rejected.value.detail
