"""Small odd files of our own making: what cannot be told from the sound picture, and what can."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import PLAN_SCHEMA, SourceLimits
from catdog.pixels import DecodeLimits, Decoder, Preprocessing, decode
from tests.pixels import odd_images

SAME = Preprocessing(odd_images.HEIGHT, odd_images.WIDTH)
LIMITS = DecodeLimits()
PHONES = Path(__file__).with_name("phones")
PICTURES = {name: (data, shown) for name, data, shown in odd_images.pictures()}
REJECTED = {name: (data, code) for name, data, code in odd_images.rejected()}


@pytest.mark.parametrize("name", PICTURES)
def test_it_shows_the_picture(name):
    """However it is stored, and whatever is damaged beside its pixels, it is the same picture."""
    data, shown = PICTURES[name]
    image = decode(data, SAME, LIMITS)
    assert (image.width, image.height) == (odd_images.WIDTH, odd_images.HEIGHT)
    assert np.abs(image.pixels.astype(int) - shown).max() <= 1


@pytest.mark.parametrize("name", REJECTED)
def test_it_is_rejected(name):
    """What is cut, and what cannot be read right, is never another picture."""
    data, code = REJECTED[name]
    with pytest.raises(ImageRejected) as caught:
        decode(data, SAME, LIMITS)
    assert caught.value.code.value == code
    if name.endswith((".dng", "raw.tif")):
        assert "export" in caught.value.detail


def test_through_a_decoder_each_has_a_row(tmp_path):
    """All of them in one job: the same outcomes, from one child."""
    rows, codes = [], []
    for name, (data, outcome) in (PICTURES | REJECTED).items():
        (tmp_path / name).write_bytes(data)
        rows.append({"uri": f"file://{tmp_path / name}", "name": name, "codec": "file"})
        codes.append(outcome if isinstance(outcome, str) else None)
    entries = pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)
    with contextlib.closing(Decoder(SAME, LIMITS, SourceLimits(), batch_size=16)) as decoder:
        pid = decoder.child_pid
        errors = [
            error
            for batch in decoder.decode(entries)
            for error in batch.outcomes["error"].to_pylist()
        ]
        assert decoder.child_pid == pid
    assert errors == codes


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("size", [(52, 33), (64, 64), (7, 5)])
def test_a_jpeg_without_its_end_mark_is_whole(options, subsampling, size):
    """Without the end mark, or half of it, or with bytes behind it, it is the same picture."""
    stream = io.BytesIO()
    image = Image.fromarray(odd_images.truth()).resize(size)
    image.save(stream, "JPEG", subsampling=subsampling, **options)
    data = stream.getvalue()
    expected = decode(data, SAME, LIMITS).pixels
    for other in (data[:-2], data[:-1], data + b"\0junk\xff", data + data, data[:-2] + b"\xff" * 9):
        assert np.array_equal(decode(other, SAME, LIMITS).pixels, expected)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_truncated_wherever_it_is_cut(progressive):
    """Cut anywhere, a JPEG is rejected, or not a pixel is missing."""
    noise = np.random.default_rng(4).integers(0, 255, (40, 40, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", progressive=progressive, subsampling=0)
    data = stream.getvalue()
    whole = decode(data, Preprocessing(40, 40), LIMITS).pixels
    decoded = 0
    for length in range(len(data) - 1, 2, -7 if progressive else -3):
        with contextlib.suppress(ImageRejected):
            pixels = decode(data[:length], Preprocessing(40, 40), LIMITS).pixels
            assert np.array_equal(pixels, whole)
            decoded += 1
    assert decoded <= 2


@pytest.mark.parametrize("name", ["photo", "grey", "ten_bit", "two", "turned", "alpha"])
def test_pictures_of_phones(name):
    """HEIC from a phone's encoder: upright, the first picture, alpha on white."""
    y, x = np.mgrid[0:48, 0:64]
    shown = np.stack([x * 4, y * 5, (x + y) * 2], -1)
    if name == "grey":
        shown = np.asarray(Image.fromarray(shown.astype(np.uint8)).convert("L"))[..., np.newaxis]
    if name == "alpha":
        opacity = (x * 4 / 255)[..., np.newaxis]
        shown = shown * opacity + 255 * (1 - opacity)
    if name == "turned":
        shown = np.rot90(shown, -1)
    height, width = shown.shape[:2]
    data = (PHONES / f"{name}.heic").read_bytes()
    image = decode(data, Preprocessing(height, width), LIMITS)
    assert (image.format, image.width, image.height) == ("HEIF", width, height)
    assert np.abs(image.pixels - shown.astype(float)).mean() < 2
    with pytest.raises(ImageRejected) as caught:
        decode(data, SAME, DecodeLimits(max_pixels=64 * 48 - 1))
    assert caught.value.code == ErrorCode.TOO_LARGE
    with pytest.raises(ImageRejected) as caught:
        decode(data[: len(data) // 2], SAME, LIMITS)
    assert caught.value.code == ErrorCode.TRUNCATED


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("mode", "bits"), [("1", 1), ("L", 8), ("RGBA", 32), ("I;16", 16)])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 7), (33, 20)])
def test_a_black_png_is_whole(mode, bits, size, interlaced):
    """Black last rows are no missing rows, whatever the size, depth and interlacing."""
    width, height = size
    kind = {"RGBA": 6}.get(mode, 0)
    rows = b""
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    for x, y, step_x, step_y in [*steps, (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]:
        columns, lines = len(range(x, width, step_x)), len(range(y, height, step_y))
        rows += bytes(lines * (1 + -(-columns * bits // 8))) if columns else b""
    depth = bits // 4 if kind else bits
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    start = b"\x89PNG\r\n\x1a\n" + odd_images.chunk(b"IHDR", header)
    end = odd_images.chunk(b"IEND", b"")
    decode(start + odd_images.chunk(b"IDAT", zlib.compress(rows)) + end, SAME, LIMITS)
    short = odd_images.chunk(b"IDAT", zlib.compress(rows[:-1]))
    with pytest.raises(ImageRejected):
        decode(start + short + end, SAME, LIMITS)


def test_no_item_of_a_picture_of_a_phone_crashes():
    """A spoilt byte in the list of items of a HEIC is a reason, where pi_heif would crash."""
    data = (PHONES / "turned.heic").read_bytes()
    rejected = 0
    for at in range(data.index(b"infe"), data.rindex(b"infe") + 24):
        spoilt = bytearray(data)
        spoilt[at] = 0xFF
        with contextlib.suppress(ImageRejected):
            decode(bytes(spoilt), SAME, LIMITS)
            rejected -= 1
        rejected += 1
    assert rejected
