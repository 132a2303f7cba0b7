"""A second decoder judges: what is accepted shows what another library reads, level by level.

TIFF is read by tifffile, the others by imagecodecs: other code above libtiff, libpng, libjpeg.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import DecodeLimits, Preprocessing, decode
from tests.pixels import odd_images

if TYPE_CHECKING:
    from collections.abc import Iterator

SAME = Preprocessing(odd_images.HEIGHT, odd_images.WIDTH)
LIMITS = DecodeLimits()
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
ORDERS = ("<", ">")
COMPRESSIONS = (None, "zlib", "lzw", "packbits")


def close(data: bytes, expected: np.ndarray) -> None:
    """The decoded picture is at most 2 levels from what is expected, on average."""
    expected = expected.reshape(odd_images.HEIGHT, odd_images.WIDTH, -1)
    assert np.abs(decode(data, SAME, LIMITS).pixels - expected.astype(float)).mean() < 2


def tiffs(kind: str, photometric: str) -> Iterator[bytes]:
    """The picture in one type of number, in all layouts that tifffile writes."""
    channels = CHANNELS[photometric]
    values = odd_images.truth() / 255
    if channels == 1:
        values = values[:, :, 0]
    elif channels == 4:
        values = np.concatenate([values, values[:, :, :1] / 2], -1)
    dtype = np.dtype(kind)
    if dtype.kind != "f":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        values = np.clip(np.rint(low + values * (high - low)), low, np.nextafter(high, 0))
    for order, compression, planes, tile, big in itertools.product(
        ORDERS, COMPRESSIONS, ("contig", "separate"), (None, (16, 16)), (False, True)
    ):
        if channels == 1 and planes == "separate":
            continue
        stream = io.BytesIO()
        tifffile.imwrite(
            stream,
            (np.moveaxis(values, -1, 0) if planes == "separate" else values).astype(kind),
            photometric=photometric,
            planarconfig=planes if channels > 1 else None,
            byteorder=order,
            compression=compression,
            tile=tile,
            bigtiff=big,
        )
        yield stream.getvalue()


def meant(data: bytes, photometric: str) -> np.ndarray:
    """What a TIFF's numbers mean in 8 bits, by the rules of docs/pixels.md, float."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        values = file.pages[0].asarray()
        if file.pages[0].planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
    if values.dtype in (np.uint8, np.uint16):
        levels = values / np.iinfo(values.dtype).max * 255
    else:
        low, high = float(values.min()), float(values.max())
        levels = (values.astype(float) - low) * 255 / (high - low)
    if photometric == "miniswhite":
        return 255 - levels
    if photometric == "separated":  # without a profile: each ink takes its share of the light
        return (255 - levels[:, :, :3]) * (255 - levels[:, :, 3:]) / 255
    return levels


@pytest.mark.parametrize("photometric", CHANNELS)
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
def test_tiff(kind, photometric):
    """Every kind of number, layout and byte order is read as tifffile reads it, or unsupported."""
    outcomes = []
    for data in tiffs(kind, photometric):
        try:
            close(data, meant(data, photometric))
            outcomes.append("same")
        except ImageRejected as rejected:
            outcomes.append(rejected.code)
    assert set(outcomes) <= {"same", ErrorCode.UNSUPPORTED}
    common = {("u1", "minisblack"), ("u1", "miniswhite"), ("u1", "rgb"), ("u2", "minisblack")}
    common |= {("u1", "separated"), ("u2", "rgb"), ("f4", "minisblack"), ("u2", "miniswhite")}
    if (kind, photometric) in common:
        assert outcomes.count("same") >= len(outcomes) // 4


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma"])
def test_tiff_of_differences(kind, compression):
    """Numbers stored as differences, those of floats byte by byte (predictors 2 and 3)."""
    values = odd_images.truth()[:, :, 0] / 255
    if kind[0] == "u":
        values = np.rint(values * np.iinfo(kind).max)
    stream = io.BytesIO()
    tifffile.imwrite(stream, values.astype(kind), predictor=True, compression=compression)
    close(stream.getvalue(), meant(stream.getvalue(), "minisblack"))


@pytest.mark.parametrize("compression", ["jpegxl", "jpeg2000", "jpegxr", "png", "lerc", "webp"])
def test_tiff_of_other_compressions_is_refused(compression):
    """Those that libtiff does not decode are unsupported, not damaged."""
    stream = io.BytesIO()
    tifffile.imwrite(
        stream, odd_images.truth().astype("u1"), photometric="rgb", compression=compression
    )
    with pytest.raises(ImageRejected) as rejected:
        decode(stream.getvalue(), SAME, LIMITS)
    assert rejected.value.code == ErrorCode.UNSUPPORTED


@pytest.mark.parametrize("most", [1000, 30_000, 32_767])
@pytest.mark.parametrize("order", "<>")
def test_tiff_of_signed_numbers_that_are_positive(most, order):
    """They have no standard range: the largest one is white, and not half as bright."""
    values = np.rint(odd_images.truth()[:, :, 0] / 255 * most).astype("i2")
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, photometric="minisblack", byteorder=order)
    close(stream.getvalue(), meant(stream.getvalue(), "minisblack"))


@pytest.mark.parametrize("most", [255, 0xFFFF])
def test_tiff_of_a_palette_of_8_bits_is_refused(most):
    """Old writers leave the colours' low byte alone, which reads as black."""
    stream = io.BytesIO()
    indices = odd_images.truth()[:, :, 0].astype("u1")
    ramp = np.linspace(0, most, 256).astype("u2")
    tifffile.imwrite(stream, indices, photometric="palette", colormap=np.stack([ramp, ramp, ramp]))
    if most == 255:
        with pytest.raises(ImageRejected, match="palette of 8 bits"):
            decode(stream.getvalue(), SAME, LIMITS)
    else:
        close(stream.getvalue(), indices)


def saved(mode: str, format_: str, **options: object) -> bytes:
    return odd_images.encoded(format_, mode, **options)


JPEGS = [
    saved(mode, "JPEG", progressive=progressive, **sampling)
    for mode, samplings in {"L": [{}], "RGB": [{"subsampling": n} for n in range(3)]}.items()
    for progressive in (False, True)
    for sampling in samplings
]


@pytest.mark.parametrize("data", JPEGS)
def test_jpeg(data):
    """Grey and colour, in every subsampling, sequential and progressive."""
    close(data, imagecodecs.jpeg8_decode(data))


def test_jpeg_of_inks():
    """CMYK without a profile, as Adobe's programs store it (inverted)."""
    data = saved("CMYK", "JPEG", quality=95)
    inks = 255 - imagecodecs.jpeg8_decode(data, outcolorspace="CMYK").astype(float)
    close(data, (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_png(mode):
    """Grey, palette and colour of 1 to 8 bits."""
    data = saved(mode, "PNG")
    close(data, np.asarray(Image.fromarray(odd_images.truth()).convert(mode).convert("RGB")))
    if mode != "1":
        values = imagecodecs.png_decode(data)
        close(data, values if values.ndim == 2 or values.shape[-1] == 3 else values[..., :3])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels):
    """Grey and colour of 16 bits, with alpha and without, written by libpng."""
    picture = odd_images.truth().astype(np.uint16) * 257
    values = picture if channels > 2 else picture[:, :, :1]
    opacity = picture[:, :, 2:]
    if channels in (2, 4):
        values = np.concatenate([values, opacity], -1)
    data = imagecodecs.png_encode(np.ascontiguousarray(np.squeeze(values)))
    read = imagecodecs.png_decode(data).reshape(odd_images.HEIGHT, odd_images.WIDTH, -1) / 257
    if channels in (2, 4):
        alpha = read[..., -1:] / 255
        read = read[..., :-1] * alpha + 255 * (1 - alpha)
    close(data, read)


OTHER = Image.new("RGB", (odd_images.WIDTH, odd_images.HEIGHT), (255, 0, 0))


def lossless(format_: str) -> bytes:
    return saved("RGB", format_, lossless=True)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (saved("RGB", "WEBP", quality=90), imagecodecs.webp_decode),
        (lossless("WEBP"), imagecodecs.webp_decode),
        (saved("RGB", "AVIF", quality=90), imagecodecs.avif_decode),
        (saved("RGB", "JPEG2000"), imagecodecs.jpeg2k_decode),
        (saved("L", "JPEG2000"), imagecodecs.jpeg2k_decode),
        (saved("RGB", "QOI"), imagecodecs.qoi_decode),
        (saved("RGB", "BMP"), imagecodecs.bmp_decode),
        (saved("L", "BMP"), imagecodecs.bmp_decode),
        (saved("P", "GIF"), imagecodecs.gif_decode),
        (saved("L", "GIF"), imagecodecs.gif_decode),
        (saved("RGB", "MPO", save_all=True, append_images=[OTHER]), imagecodecs.jpeg8_decode),
    ],
)
def test_other_formats(data, read):
    """What the other library makes of the very same bytes."""
    close(data, read(data)[..., :3] if read(data).ndim == 3 else read(data))


@pytest.mark.parametrize("format_", ["TGA", "SGI", "PPM", "PCX", "DDS"])
def test_formats_without_another_library(format_):
    """Where no second library reads a format, the picture that was written judges."""
    close(saved("RGB", format_), odd_images.truth())


def test_deep_pictures_of_other_formats():
    """10-bit AVIF and 16-bit JPEG 2000 lose their low bits, nothing else."""
    deep = odd_images.truth().astype(np.uint16)
    avif = imagecodecs.avif_encode(deep * 4, level=95, bitspersample=10)
    close(avif, imagecodecs.avif_decode(avif) / 4)
    for bits in (10, 12, 16):
        values = (odd_images.grey() * np.uint32((1 << bits) - 1) // 255).astype(np.uint16)
        close(imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits), odd_images.grey())


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_jpeg_2000_in_colour_is_refused(bits):
    """Pillow makes black of its white."""
    values = (odd_images.truth() * np.uint32((1 << bits) - 1) // 255).astype(np.uint16)
    with pytest.raises(ImageRejected) as caught:
        decode(imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits), SAME, LIMITS)
    assert caught.value.code == ErrorCode.UNSUPPORTED
