"""Bytes to pixels: colour, orientation, geometry, limits."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catdog.errors import CatdogError, ErrorCode, ImageRejected
from catdog.pixels import DecodeLimits, Preprocessing, decode
from catdog.pixels.decoding import DecodedImage

SMALL = Preprocessing(8, 8)
LIMITS = DecodeLimits()


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def decoded(image: Image.Image, format_: str = "PNG", **options: object) -> np.ndarray:
    return decode(encoded(image, format_, **options), SMALL, LIMITS).pixels


def rejection(data: bytes, limits: DecodeLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        decode(data, SMALL, limits)
    return caught.value


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """No two corners alike, and smooth, so that scaling twice ways differs little."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, (x + 2 * y) * 255 / (width + 2 * height)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def near(pixels: np.ndarray, expected: object, tolerance: int = 1) -> bool:
    return bool((np.abs(pixels.astype(int) - np.asarray(expected, int)) <= tolerance).all())


def test_result_is_what_it_says():
    """Pixels are uint8, (H, W, 3), contiguous; width, height and format are the original's."""
    image = decode(encoded(picture(50, 30), "JPEG"), Preprocessing(10, 20), LIMITS)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (10, 20, 3)
    assert image.pixels.flags.c_contiguous
    assert (image.width, image.height, image.format) == (50, 30, "JPEG")


def test_out_receives_the_pixels():
    """With `out`, the result is that very array, whatever it held."""
    data = encoded(picture())
    out = np.full((8, 8, 3), 77, np.uint8)
    image = decode(data, Preprocessing(8, 8, "pad"), LIMITS, out=out)
    assert image.pixels is out
    assert np.array_equal(out, decode(data, Preprocessing(8, 8, "pad"), LIMITS).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_orientation_gives_the_upright_picture(orientation, format_, resize):
    """A picture stored turned or mirrored, with the EXIF that says so, decodes as the upright."""
    upright = picture(96, 64)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    preprocessing = Preprocessing(16, 20, resize)
    quality = {} if format_ in ("PNG", "TIFF") else {"quality": 100}
    image = decode(encoded(stored, format_, exif=exif, **quality), preprocessing, LIMITS)
    expected = decode(encoded(upright), preprocessing, LIMITS)
    assert (image.width, image.height) == (96, 64)
    assert near(image.pixels, expected.pixels, tolerance=4)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage", b"", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0"],
)
def test_broken_metadata_does_not_reject(exif):
    """Metadata that cannot be read, or an orientation that does not exist, means upright."""
    assert near(decoded(picture(), "JPEG", exif=exif), decoded(picture(), "JPEG"))


@pytest.mark.parametrize("orientation", [0, 9, 255, 65_535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    """Width and height are those that are stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(picture(), "JPEG", exif=exif), Preprocessing(16, 20), LIMITS)
    assert (image.width, image.height) == picture().size


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=50, deadline=None)
def test_alpha_is_composited_on_white(red, green, blue, alpha):
    """A colour of opacity a shows as a * colour + (1 - a) * white, in every format with alpha."""
    colour = np.array([red, green, blue])
    expected = np.rint(colour * (alpha / 255) + 255 - alpha)
    image = Image.new("RGBA", (5, 7), (red, green, blue, alpha))
    for pixels in (decoded(image), decoded(image, "TIFF")):
        assert near(pixels, expected)


@given(st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_grey_alpha_is_composited_on_white(grey, alpha):
    """Grey with alpha follows the rule of colour with alpha."""
    pixels = decoded(Image.new("LA", (5, 7), (grey, alpha)))
    assert near(pixels, round(grey * alpha / 255 + 255 - alpha))


def test_transparent_edges_do_not_bleed():
    """The hidden colour of transparent pixels has no part in the scaled picture."""
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 32, 64))
    pixels = decoded(image).astype(int)
    assert (pixels[:, :, 0] == pixels[:, :, 1]).all(), "blue over white has equal red and green"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_transparent_colour_is_white(mode):
    """A colour that the metadata declares transparent shows as white."""
    image = Image.new("RGB", (16, 16), (0, 0, 0)).convert(mode)
    key = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    assert (decoded(image, transparency=key) == 255).all()


def test_transparent_16_bit_grey_is_white():
    """The transparent value of a 16-bit grey PNG is compared in 16 bits."""
    image = Image.fromarray(np.array([[0x1234] * 8, [0x1235] * 8] * 4, np.uint16))
    pixels = decoded(image, transparency=0x1234)
    assert (pixels[0::2] == 255).all()
    assert (pixels[1::2] == 0x12).all()


@given(st.integers(0, 0xFFFF))
@settings(max_examples=30, deadline=None)
def test_16_bit_grey_is_its_high_byte(value):
    """Of 16-bit grey the high byte counts, whichever the format, also as 32-bit integers."""
    image = Image.fromarray(np.full((4, 4), value, np.uint16))
    wide = Image.fromarray(np.full((4, 4), value, np.int32))
    for pixels in (decoded(image), decoded(image, "TIFF"), decoded(wide, "TIFF")):
        assert (pixels == value >> 8).all()


@given(*[st.floats(-(2.0**120), 2.0**120, width=32)] * 2)
@settings(max_examples=30, deadline=None)
def test_floats_are_stretched(first, second):
    """The smallest float is black, the largest white; a constant picture is black."""
    values = np.repeat(np.array([[first], [second]], np.float32), [32, 32], axis=0)
    pixels = decoded(Image.fromarray(np.repeat(values, 8, axis=1)), "TIFF")
    if first == second:
        assert (pixels == 0).all()
    else:
        dark, light = (0, -1) if first < second else (-1, 0)
        assert (pixels[dark] == 0).all()
        assert (pixels[light] == 255).all()


def test_not_a_number_is_black():
    """Values that are no numbers, or infinite, count as the smallest that is finite."""
    values = np.array([[np.nan, np.inf, -np.inf, 1.0, 2.0, 2.0, 2.0, 2.0]] * 8, np.float32)
    pixels = decoded(Image.fromarray(values), "TIFF")
    assert pixels[0, :, 0].tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


@given(st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=30, deadline=None)
def test_colour_models_agree(colour):
    """The same flat colour as RGB, palette, CMYK, YCbCr and LAB decodes alike."""
    image = Image.new("RGB", (16, 16), colour)
    assert near(decoded(image), colour, 0)
    assert near(decoded(image.convert("P", palette=Image.Palette.ADAPTIVE)), colour, 0)
    assert near(decoded(image.convert("CMYK"), "TIFF"), colour, 0)
    assert near(decoded(image.convert("CMYK"), "JPEG", quality=100), colour, 3)
    assert near(decoded(image, "JPEG", quality=100), colour, 3)


def test_lab_is_converted():
    """LAB's green is green."""
    red, green, blue = decoded(Image.new("LAB", (8, 8), (150, 60, 170)), "TIFF")[0, 0].astype(int)
    assert green > red
    assert green > blue


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "AVIF", "TIFF", "PNG"])
def test_first_picture_counts(format_):
    """Of an animation or several pages, the first one is decoded."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("lime", "red", "blue")]
    lossless = {"lossless": True} if format_ == "WEBP" else {}
    pixels = decoded(frames[0], format_, save_all=True, append_images=frames[1:], **lossless)
    assert near(pixels, (0, 255, 0), 3)


def test_stretch_ignores_the_aspect_ratio():
    """Each edge of the original lies at the edge of the result."""
    pixels = decode(encoded(picture(300, 20)), Preprocessing(20, 20), LIMITS).pixels.astype(int)
    assert pixels[0, 0, 0] < 10
    assert pixels[0, -1, 0] > 245


def test_crop_takes_the_centre():
    """The largest centred square of a wide picture, without what lies left and right of it."""
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    pixels = decode(encoded(image), Preprocessing(20, 20, "crop"), LIMITS).pixels
    assert near(pixels[:, 1:-1], (0, 0, 255), 0)


def test_pad_keeps_the_whole_picture():
    """A wide picture lies between black bars of equal height."""
    image = Image.new("RGB", (200, 100), "white")
    pixels = decode(encoded(image), Preprocessing(20, 20, "pad"), LIMITS).pixels
    assert (pixels[5:15] == 255).all()
    assert (pixels[:5] == 0).all()
    assert (pixels[15:] == 0).all()


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["stretch", "crop", "pad"]),
    st.sampled_from(["PNG", "JPEG"]),
)
@settings(max_examples=100, deadline=None)
def test_any_size_to_any_size(width, height, columns, rows, resize, format_):
    """A white picture is white wherever it shows, whatever the sizes."""
    data = encoded(Image.new("L", (width, height), 255), format_)
    image = decode(data, Preprocessing(rows, columns, resize), LIMITS)
    assert (image.width, image.height) == (width, height)
    centre = image.pixels[(rows - 1) // 2 : rows // 2 + 1, (columns - 1) // 2 : columns // 2 + 1]
    assert (image.pixels == 255).all() if resize != "pad" else (centre.max() == 255)


def test_draft_changes_little():
    """A JPEG scaled in its DCT first is close to one scaled from all its pixels."""
    image = picture(900, 700)
    jpeg = encoded(image, "JPEG", quality=95)
    lossless = encoded(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    for resize in ("stretch", "crop", "pad"):
        preprocessing = Preprocessing(60, 90, resize)
        scaled = decode(jpeg, preprocessing, LIMITS).pixels
        assert near(scaled, decode(lossless, preprocessing, LIMITS).pixels, tolerance=3)


def test_pixel_limit_is_exact():
    """An image of exactly `max_pixels` is decoded, one more pixel is too large."""
    data = encoded(Image.new("L", (10, 10)))
    assert decode(data, SMALL, DecodeLimits(max_pixels=100)).width == 10
    for format_ in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        data = encoded(Image.new("RGB", (10, 10)), format_)
        assert rejection(data, DecodeLimits(max_pixels=99)).code == ErrorCode.TOO_LARGE


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", ErrorCode.EMPTY, "no bytes"),
        (b"hello, world\n", ErrorCode.NOT_AN_IMAGE, "text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", ErrorCode.NOT_AN_IMAGE, "HTML"),
        (b'{"error": "AccessDenied"}', ErrorCode.NOT_AN_IMAGE, "text"),
        (bytes(1000), ErrorCode.NOT_AN_IMAGE, "00 00"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""/>', ErrorCode.UNSUPPORTED, "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ErrorCode.TRUNCATED, "HEIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ErrorCode.UNSUPPORTED, "EPS"),
        (b"%PDF-1.7\n", ErrorCode.UNSUPPORTED, "PDF"),
        (
            b"\0\0\0\x0cJXL \r\n\x87\n",
            ErrorCode.UNSUPPORTED,
            "JPEG XL files are not supported: convert",
        ),
        (b"\x89PNG\r\n\x1a\n", ErrorCode.TRUNCATED, "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", ErrorCode.TRUNCATED, "JPEG"),
    ],
)
def test_what_is_no_image_says_so(data, code, words):
    """Each kind of other content has its code, and a sentence that names it."""
    rejected = rejection(data)
    assert rejected.code == code
    assert words in rejected.detail


def test_an_archive_or_table_in_place_of_an_image_is_named(tmp_path):
    """What their own libraries write is recognised."""
    files = {"ZIP archive": "zip", "tar archive": "tar", "gzip": "tgz", "Parquet": "parquet"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.txt").write_bytes(b"x" * 1000)
    for archive in ("zip", "tar", "gztar"):
        shutil.make_archive(str(tmp_path / "a"), archive, tmp_path, "photos")
    (tmp_path / "a.tar.gz").rename(tmp_path / "a.tgz")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    np.save(tmp_path / "a.npy", np.zeros(3))
    for words, extension in {**files, "NumPy": "npy"}.items():
        rejected = rejection((tmp_path / f"a.{extension}").read_bytes())
        assert rejected.code == ErrorCode.NOT_AN_IMAGE
        assert words in rejected.detail


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_half_a_file_is_truncated(format_):
    """The first half of an image is reported as cut off."""
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format_)
    assert rejection(data[: len(data) // 2]).code == ErrorCode.TRUNCATED


def test_settings_of_pillow_are_left_as_they_were():
    """Other users of Pillow in the process keep their settings, also after a rejection."""
    before = Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS
    decoded(picture())
    rejection(b"\x89PNG\r\n\x1a\n")
    assert before == (Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS)


def test_preprocessing_survives_json():
    """What was written is read back equal; its canonical form tells preprocessings apart."""
    for resize in ("stretch", "crop", "pad"):
        preprocessing = Preprocessing(150, 160, resize)
        written = json.loads(json.dumps(preprocessing.to_json_dict()))
        assert Preprocessing.from_json_dict(written) == preprocessing
        assert Preprocessing.from_json_dict(written).canonical == preprocessing.canonical
    assert Preprocessing(1, 2).canonical != Preprocessing(2, 1).canonical


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"height": 10**9},
        {"width": 150.0},
        {"width": True},
        {"width": None},
        {"resize": "squash"},
        {"resize": ["crop"]},
        {"version": 99},
        {"mean": 0.5},
    ],
)
def test_preprocessing_refuses_what_it_does_not_know(change):
    """No key or value is ignored or defaulted in what a model's metadata says."""
    with pytest.raises(CatdogError):
        Preprocessing.from_json_dict({**Preprocessing(150, 150).to_json_dict(), **change})
    for key in Preprocessing(150, 150).to_json_dict():
        partial = Preprocessing(150, 150).to_json_dict()
        del partial[key]
        with pytest.raises(CatdogError):
            Preprocessing.from_json_dict(partial)


def test_limits_must_be_positive():
    """A limit of nothing would reject everything: it is refused."""
    for name in ("max_pixels", "timeout_s", "memory_bytes"):
        with pytest.raises(CatdogError):
            DecodeLimits(**{name: 0})


def test_import_is_light():
    """Decoding needs neither Ray nor TensorFlow nor pyarrow."""
    code = (
        "import sys, catdog.pixels.decoding; "
        "print([m for m in ('ray', 'tensorflow', 'keras', 'pyarrow') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert answer.stdout.strip() == b"[]"


def test_decode_returns_a_decoded_image():
    """The type that the other modules rely on."""
    assert isinstance(decode(encoded(picture()), SMALL, LIMITS), DecodedImage)
