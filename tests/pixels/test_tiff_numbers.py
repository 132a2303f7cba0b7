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


def tiff(*, tags: dict[int, int], renamed: dict[int, int]) -> bytes:
    """A picture with other values for some tags, and other tags in place of some."""
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "TIFF")
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
