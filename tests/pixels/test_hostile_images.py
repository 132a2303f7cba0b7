"""Broken and hostile files: each gives pixels or a reason, within the limits."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catdog import inputs as sources
from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import DecodeLimits, Decoder, Preprocessing, decode

ODD_IMAGES = Path(__file__).parents[3] / "shared" / "data" / "odd-images.tar"
SMALL = Preprocessing(16, 16)
LIMITS = DecodeLimits()


def outcome(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    """The format of a decoded image, or the code it was rejected with; checks either's form."""
    try:
        image = decode(data, SMALL, limits)
    except ImageRejected as rejected:
        detail = rejected.detail
        assert detail.endswith("."), detail
        assert detail.isprintable(), detail
        assert len(detail) <= 200, detail
        assert "0x" not in detail, detail
        return rejected.code.value
    assert image.pixels.shape == (16, 16, 3)
    assert image.pixels.dtype == np.uint8
    assert 0 < image.width * image.height <= limits.max_pixels
    return image.format


def photo(format_: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC).save(stream, format_)
    return stream.getvalue()


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """An 8-bit grey PNG whose header promises what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )


@pytest.mark.skipif(not ODD_IMAGES.exists(), reason="needs ../shared/data/odd-images.tar")
def test_every_odd_image_has_one_outcome(capfd):
    """Of 974 files made to break decoders, each is decoded or rejected, fast and silently."""
    outcomes: dict[str, str] = {}
    with tarfile.open(ODD_IMAGES) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None, member.name
            data = file.read()
            began_at = time.monotonic()
            outcomes[member.name] = outcome(data)
            assert time.monotonic() - began_at < 5, member.name
    assert len(outcomes) == 974
    counts = Counter(outcomes.values())
    assert counts["PNG"] >= 559
    assert counts["TIFF"] >= 74  # 4 of 16-bit planes are refused
    assert sum(counts[code.value] for code in ErrorCode) <= 98
    said = capfd.readouterr().err
    assert "Warning" not in said, "libtiff may speak, Python may not"


@pytest.mark.skipif(not ODD_IMAGES.exists(), reason="needs ../shared/data/odd-images.tar")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pillow/decompression_bomb.gif", "too-large"),
        ("pillow/decompression_bomb.ico", "too-large"),
        ("pillow/png_decompression_dos.png", "PNG"),  # large text beside sound pixels
        ("pillow/tiff_tiled_planar_16bit_RGB.tiff", "unsupported"),
        ("pillow/truncated_jpeg.jpg", "JPEG"),  # it lacks half of the end mark
        ("pillow/broken_data_stream.png", "truncated"),
        ("pillow/bmp/q/rgb24jpeg.bmp", "unsupported"),
        ("pillow/frame_size.mpo", "MPO"),
        ("pillow/avif/hopper.avif", "AVIF"),
        ("pillow/16bit.s.tif", "TIFF"),
        ("pngsuite/xhdn0g08.png", "truncated"),
    ],
)
def test_known_odd_images(name, expected):
    """A few of them whose outcome is beyond doubt."""
    with tarfile.open(ODD_IMAGES) as archive:
        member = archive.extractfile(name)
        assert member is not None
        assert outcome(member.read()) == expected


@pytest.mark.slow
@pytest.mark.skipif(not ODD_IMAGES.exists(), reason="needs ../shared/data/odd-images.tar")
def test_an_archive_of_odd_images_is_decoded_whole():
    """Through sources and Decoder each of them has one row, the same as decoded here."""
    limits = sources.SourceLimits()
    batches = list(sources.list_images([str(ODD_IMAGES)], limits))
    entries = pa.Table.from_batches(batches, sources.PLAN_SCHEMA)
    rows = []
    with contextlib.closing(Decoder(SMALL, LIMITS, limits, batch_size=64)) as decoding:
        pid = decoding.child_pid
        for batch in decoding.decode(entries):
            rows += batch.outcomes.to_pylist()
        assert decoding.child_pid == pid, "none of them crashes the decoders of today"
    with tarfile.open(ODD_IMAGES) as archive:
        for name, row in zip(entries["name"].to_pylist(), rows, strict=True):
            file = archive.extractfile(name)
            assert file is not None
            assert (row["error"] or row["format"]) == outcome(file.read()), name


PHOTOS = {format_: photo(format_) for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}


@pytest.mark.parametrize("format_", PHOTOS)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_mutated_files_never_surprise(format_, changes, kept):
    """Whatever bytes are changed or cut off, the outcome is pixels or a reason."""
    data = bytearray(PHOTOS[format_])
    for place, value in changes:
        data[int(place * len(data))] = value
    outcome(bytes(data[: int(kept * len(data)) if kept < 0.9 else len(data)]))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_never_surprise(data):
    """Whatever the bytes are, the outcome is pixels or a reason."""
    outcome(data)


@given(st.sampled_from(sorted(PHOTOS)), st.binary(max_size=64))
@settings(max_examples=100, deadline=None)
def test_foreign_content_behind_a_signature_never_surprises(format_, rest):
    """The start of a real file and then anything: pixels or a reason."""
    outcome(PHOTOS[format_][:32] + rest)


def test_bombs_are_rejected_by_their_header():
    """A few bytes that promise thousands of megapixels cost no memory and no time."""
    bombs = [
        png(50_000, 50_000),
        png(2**31 - 1, 1),
        png(1, 2**31 - 1),
        b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"P6 50000 50000 255\n",
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
    ]
    began_at = time.monotonic()
    assert {outcome(bomb) for bomb in bombs[:5]} == {"too-large"}
    assert outcome(bombs[5]) in {"too-large", "truncated"}
    assert time.monotonic() - began_at < 1


def test_webp_canvas_is_checked_before_it_is_allocated():
    """WebP's decoder allocates its canvas on opening: the limit comes first."""
    canvas = struct.pack("<I", 16_000)[:3] * 2
    body = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + canvas
    assert outcome(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body) == "too-large"


@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1), (8, 2_000_000)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_extreme_shapes_need_no_memory(shape, resize):
    """A picture one pixel wide and millions high scales without a huge image in between."""
    width, height = shape
    pixels = bytes((width + 1) * height)
    code = (
        "import sys, resource, catdog.pixels as i\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        f"p = i.Preprocessing(512, 512, {resize!r})\n"
        "print(i.decode(sys.stdin.buffer.read(), p, i.DecodeLimits()).height)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=png(width, height, pixels),
        capture_output=True,
        check=True,
    )
    assert answer.stdout.strip() == b"%d" % height, answer.stderr


def test_too_little_memory_is_too_large():
    """Where memory is limited, an image that needs more is rejected, and the next is decoded."""
    code = (
        "import sys, resource, catdog.pixels as i\n"
        "from catdog.errors import ImageRejected\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "p, limits = i.Preprocessing(8, 8), i.DecodeLimits(max_pixels=10**9)\n"
        "data = sys.stdin.buffer.read()\n"
        "try: i.decode(data, p, limits)\n"
        "except ImageRejected as rejected: print(rejected.code.value)\n"
    )
    large = png(30_000, 30_000)
    answer = subprocess.run(
        [sys.executable, "-c", code], input=large, capture_output=True, check=True
    )
    assert answer.stdout.strip() == b"too-large", answer.stderr
