"""Bytes to pixels: one documented way, the same in training and in classification.

How any picture becomes uint8 RGB:

1. EXIF (or TIFF, XMP) orientation is applied; of an animation or a multi-page file the first
   picture counts. ICC profiles are ignored.
2. Colour: grey, palette, CMYK and YCCK, YCbCr, LAB and 1-bit are converted as Pillow does. Alpha
   (also a palette's or a PNG's transparent colour) is composited on white. Of 16 bits a channel
   the high byte counts. 32-bit integers that all fit 16 bits are 16-bit grey; other 32-bit
   integers, and floats, have no agreed range: they are stretched from their smallest finite value
   (0) to their largest (255).
3. Geometry: `Preprocessing.resize`, antialiased bilinear: it never overshoots, and it is the
   filter that Keras, torchvision and tf.image mean by `bilinear` with `antialias`. A JPEG that is
   much larger than needed is first scaled in its DCT (`Image.draft`), which measured a third
   faster over whole photos.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    DdsImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    PsdImagePlugin,
    QoiImagePlugin,
    SgiImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from catdog.errors import CatdogError, ErrorCode, ImageRejected, UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

_Number = TypeVar("_Number", int, float)

Resize = Literal["stretch", "crop", "pad"]

PIXELS_VERSION = 1
"""Raised when the same bytes would give other pixels: models trained before are then refused."""

_MAX_SIDE = 4096  # of what a model sees: a batch must fit in shared memory

# Raster formats that Pillow decodes by itself, most frequent first, TGA last for want of a
# signature. Left out: those that run programs or are stubs (EPS, WMF, HDF5, GRIB, BUFR, FITS,
# MPEG), and old, rare ones, because archives come from strangers and every decoder is a way in.
# Imported here, lest Pillow import all of its plugins when it meets the first WebP.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        AvifImagePlugin.AvifImageFile,
        Jpeg2KImagePlugin.Jpeg2KImageFile,
        PpmImagePlugin.PpmImageFile,
        IcoImagePlugin.IcoImageFile,
        BmpImagePlugin.DibImageFile,
        PsdImagePlugin.PsdImageFile,
        DdsImagePlugin.DdsImageFile,
        QoiImagePlugin.QoiImageFile,
        SgiImagePlugin.SgiImageFile,
        PcxImagePlugin.PcxImageFile,
        TgaImagePlugin.TgaImageFile,
    )
)
# What a file starts with (bytes, at offset) -> what it is. Only asked when Pillow's permitted
# formats do not know the file.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    (0, b"8BPS", "PSD"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"icns", "ICNS"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"gimp xcf", "XCF"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (4, b"ftypcrx", "camera raw"),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (4, b"ftyp", "video"),
)

_TEXT = re.compile(rb"[\t\n\v\f\r\x20-\x7e\x80-\xff]*")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What decoding one image may cost; an image beyond is rejected, the job goes on."""

    max_pixels: int = 120_000_000
    """Most pixels of an image (width x height as its header says), checked before decoding.
    Beyond the largest common cameras' pictures (108 million)."""

    timeout_s: float = 30.0
    """Most seconds that decoding one image may take, reading it not included. Enforced by
    `decoding.Decoder`, which can end the process that decodes."""

    memory_bytes: int = 2816 * 1024**2
    """Most memory that decoding may take. Enforced by `decoding.Decoder`. Measured at the peak, in
    bytes a pixel: JPEG 3 to 8, PNG and TIFF 4 to 13, WebP 16, JPEG 2000 19 to 24: the default
    suffices for the largest image permitted."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "timeout_s", "memory_bytes"):
            if not getattr(self, name) > 0:
                raise UserInputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be more than 0"
                )


@dataclass(frozen=True)
class Preprocessing:
    """Geometry of the pixels that a model sees. Part of the model, so that no job can differ."""

    height: int
    """Rows of the result."""

    width: int
    """Columns of the result."""

    resize: Resize = "stretch"
    """`stretch`: to height x width, whatever the aspect ratio. `crop`: the largest centred part
    with the result's aspect ratio, scaled. `pad`: the whole picture scaled to fit inside, centred
    on black."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= _MAX_SIDE:
                raise CatdogError(
                    f"preprocessing: {name} must be 1 to {_MAX_SIDE} pixels, not {value!r}"
                )
        if self.resize not in get_args(Resize):
            raise CatdogError(
                f"preprocessing: resize must be one of {', '.join(get_args(Resize))}, "
                f"not {self.resize!r}"
            )

    def to_json_dict(self) -> dict[str, Any]:
        """What `from_json_dict` reads: plain JSON values."""
        return {**asdict(self), "version": PIXELS_VERSION}

    @classmethod
    def from_json_dict(cls, value: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that `to_json_dict` described.

        Raises:
            CatdogError: a key is missing or unknown, a value is out of range, or the pixels were
                made by another version's rules.
        """
        keys = {"height", "width", "resize", "version"}
        if set(value) != keys:
            missing, unknown = sorted(keys - set(value)), sorted(set(value) - keys)
            raise CatdogError(f"preprocessing: missing keys {missing}, unknown keys {unknown}")
        if value["version"] != PIXELS_VERSION:
            raise CatdogError(
                f"preprocessing: made for version {value['version']!r} of the pixel rules, "
                f"and this catdog has version {PIXELS_VERSION}"
            )
        return cls(height=value["height"], width=value["width"], resize=value["resize"])

    @cached_property
    def canonical(self) -> str:
        """The one text of this preprocessing, for fingerprints."""
        return json.dumps(self.to_json_dict(), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as a model sees it, and what its original was.

    Attributes:
        pixels: uint8 (H, W, 3), RGB, C-contiguous.
        width: columns of the original, after orientation.
        height: rows of the original, after orientation.
        format: Pillow's name, `JPEG` for one.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    format: str


def decode(
    data: bytes,
    preprocessing: Preprocessing,
    limits: DecodeLimits,
    *,
    out: npt.NDArray[np.uint8] | None = None,
) -> DecodedImage:
    """The pixels of an encoded image.

    Of `limits`, only `max_pixels` is enforced here: time and memory need a process of their own.
    Not for several threads at once: Pillow's settings are the process's.

    Args:
        data: the whole file.
        preprocessing: the geometry wanted.
        limits: what is too large.
        out: uint8 (H, W, 3) to decode into; the result's `pixels` is then this array. Its content
            is undefined where the image is rejected.

    Raises:
        ImageRejected: the bytes are no picture that can be decoded within the limits.
    """
    if not data:
        raise ImageRejected(ErrorCode.EMPTY, "The file has no bytes.")
    if out is None:
        out = np.empty((preprocessing.height, preprocessing.width, 3), np.uint8)
    with _pillow_settings(limits) as caught:
        format_ = ""
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                format_ = image.format or ""
                width, height = _decode_opened(image, preprocessing, limits, out)
        except ImageRejected:
            raise
        except UnidentifiedImageError:
            raise _unidentified(data, [str(warning.message) for warning in caught]) from None
        except Exception as error:
            raise _rejected(error, format_ or _signature(data) or "image", limits) from None
    return DecodedImage(pixels=out, width=width, height=height, format=format_)


@contextlib.contextmanager
def _pillow_settings(limits: DecodeLimits) -> Iterator[list[warnings.WarningMessage]]:
    """All of Pillow's global settings, for the time of one image.

    - `MAX_IMAGE_PIXELS`: Pillow checks it also inside files (WebP before its canvas is allocated,
      frames, tiles, icons), and raises above twice its value: our limit, in Pillow's places.
    - `WARN_POSSIBLE_FORMATS`: why a recognised file did not open comes only as a warning.
    - AVIF's decoder would start a thread for each core: the cores are shared out one level above.
    - Warnings are kept from the log: of a million images thousands have odd metadata.
    """
    # Every one restored: other code in the process may use Pillow too.
    before = (
        Image.MAX_IMAGE_PIXELS,
        Image.WARN_POSSIBLE_FORMATS,
        AvifImagePlugin.DEFAULT_MAX_THREADS,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
        Image.WARN_POSSIBLE_FORMATS = True
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        try:
            yield caught
        finally:
            Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS = before[:2]
            AvifImagePlugin.DEFAULT_MAX_THREADS = before[2]


def _decode_opened(
    image: Image.Image,
    preprocessing: Preprocessing,
    limits: DecodeLimits,
    out: npt.NDArray[np.uint8],
) -> tuple[int, int]:
    """Decodes into `out`; the original's width and height after orientation."""
    if image.width * image.height > limits.max_pixels:
        raise _too_large(limits, image.width * image.height)
    draftable = isinstance(image, JpegImagePlugin.JpegImageFile)
    if not draftable:  # PNG may have its orientation after the pixels, TIFF turns itself
        image.load()
    orientation = _orientation(image)
    width, height = _turned(image.size, orientation)
    size, share = _geometry(width, height, preprocessing)
    stored_size, stored_share = _turned(size, orientation), _turned(share, orientation)
    extent: tuple[float, float] = image.size
    if draftable and (drafted := image.draft(None, stored_size)):
        # Drafted sizes are rounded up: the picture's own edge lies inside the last pixel.
        extent = drafted[1][2:]
    small = _resized(_resizable(image), extent, stored_share, stored_size, limits)
    if orientation in _TRANSPOSE:
        small = small.transpose(_TRANSPOSE[orientation])
    if size == (preprocessing.width, preprocessing.height):
        out[...] = _rgb(small)
    else:
        left, top = (preprocessing.width - size[0]) // 2, (preprocessing.height - size[1]) // 2
        out[...] = 0
        out[top : top + size[1], left : left + size[0]] = _rgb(small)
    return width, height


# EXIF orientation -> what turns the picture upright.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where the metadata is broken: the picture may not be."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _turned(pair: tuple[_Number, _Number], orientation: int) -> tuple[_Number, _Number]:
    """(x, y) of the upright picture from the stored one, and the other way round."""
    return (pair[1], pair[0]) if orientation >= 5 else pair


def _geometry(
    width: int, height: int, preprocessing: Preprocessing
) -> tuple[tuple[int, int], tuple[float, float]]:
    """The size to scale to, and the centred share (of width, of height) of the original to take."""
    across, down = preprocessing.width / width, preprocessing.height / height
    if preprocessing.resize == "crop":
        share = (across / max(across, down), down / max(across, down))
        return (preprocessing.width, preprocessing.height), share
    if preprocessing.resize == "pad":
        scale = min(across, down)
        return (max(1, round(width * scale)), max(1, round(height * scale))), (1.0, 1.0)
    return (preprocessing.width, preprocessing.height), (1.0, 1.0)


def _resizable(image: Image.Image) -> Image.Image:
    """The image in L, RGB or, where it has transparency, RGBa (premultiplied: edges keep clean)."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        return _from_32_bit(image)
    if image.has_transparency_data:  # RGBA, LA, PA, or a transparent colour in the metadata
        return (image if image.mode == "RGBA" else image.convert("RGBA")).convert("RGBa")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey: the high byte (Pillow's own conversion clips at 255)."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    opaque = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, opaque)).convert("RGBA").convert("RGBa")


def _from_32_bit(image: Image.Image) -> Image.Image:
    """32-bit integers and floats, by the rule of the module's docstring."""
    values = np.asarray(image)
    if image.mode == "I" and values.min() >= 0 and values.max() <= 0xFFFF:
        return Image.fromarray((values >> 8).astype(np.uint8))
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, values[finite].min() if finite.any() else 0)
    low, high = float(values.min()), float(values.max())
    grey = np.empty(values.shape, np.uint8)
    for row in range(0, len(grey), 64):  # in strips: a float64 copy of the whole would be large
        strip = values[row : row + 64].astype(np.float64)
        grey[row : row + 64] = np.rint((strip - low) * (255 / ((high - low) or 1)))
    return Image.fromarray(grey)


def _resized(
    image: Image.Image,
    extent: tuple[float, float],
    share: tuple[float, float],
    size: tuple[int, int],
    limits: DecodeLimits,
) -> Image.Image:
    """The centred `share` of the picture, which covers `extent` of the image, scaled to `size`."""
    (width, height), (share_x, share_y) = extent, share
    left, right = width * (1 - share_x) / 2, width * (1 + share_x) / 2
    top, bottom = height * (1 - share_y) / 2, height * (1 + share_y) / 2
    if size[0] * image.height > limits.max_pixels:
        # Pillow scales rows first: a picture one pixel wide and a million high would blow up.
        image = image.resize(
            (image.width, size[1]), Image.Resampling.BILINEAR, (0, top, image.width, bottom)
        )
        top, bottom = 0.0, float(size[1])
    return image.resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom))


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3), or (H, W, 1) for grey, of what `_resizable` gave."""
    pixels: npt.NDArray[np.uint8] = np.asarray(image)
    if image.mode == "L":
        return pixels[:, :, np.newaxis]
    if image.mode == "RGBa":  # premultiplied over white: what alpha leaves free is white
        return pixels[:, :, :3] + (255 - pixels[:, :, 3:])
    return pixels


# What Pillow, or a codec under it, says in its messages; anything else is damage.
_LARGE = re.compile(r"out of memory|insufficient memory|too large|exceeds limit", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"(not|un) ?(supported|implemented|available)|unable to handle|cannot find loader"
    r"|(unknown|bad|invalid) (image|pixel|data|bmp|mode|compression|raw)",
    re.IGNORECASE,
)


def _rejected(error: Exception, format_: str, limits: DecodeLimits) -> ImageRejected:
    """What an exception of Pillow's means. The only place that knows."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(
            limits, int((re.search(r"\d+", str(error)) or [limits.max_pixels + 1])[0])
        )
    if isinstance(error, MemoryError):
        return ImageRejected(
            ErrorCode.TOO_LARGE, f"Decoding this {format_} takes more memory than is allowed."
        )
    return _meaning(str(error), format_, unsupported=isinstance(error, NotImplementedError))


def _meaning(message: str, format_: str, *, unsupported: bool = False) -> ImageRejected:
    reason = _clean(message)
    if _LARGE.search(message):
        return ImageRejected(ErrorCode.TOO_LARGE, f"This {format_} is too large: {reason}.")
    if unsupported or _UNSUPPORTED.search(message):
        return ImageRejected(
            ErrorCode.UNSUPPORTED, f"This kind of {format_} cannot be decoded: {reason}."
        )
    return ImageRejected(ErrorCode.TRUNCATED, f"The {format_} is damaged or cut off: {reason}.")


def _unidentified(data: bytes, reasons: list[str]) -> ImageRejected:
    """Why no permitted format opened the file."""
    known = _signature(data)
    if known in FORMATS:
        prefix = f"{known} opening failed. "
        said = next((r.removeprefix(prefix) for r in reasons if r.startswith(prefix)), "")
        if said in ("", "not identified by this driver"):  # Pillow's words for any short header
            said = "its header cannot be read"
        return _meaning(said, known)
    if known:
        return ImageRejected(ErrorCode.UNSUPPORTED, f"{known} files are not supported.")
    start = data[:1024]
    if _MARKUP.match(start):
        if b"<svg" in start.lower():
            return ImageRejected(ErrorCode.UNSUPPORTED, "SVG drawings are not supported.")
        kind = "an HTML page" if b"<html" in start.lower() else "markup"
        return ImageRejected(ErrorCode.NOT_AN_IMAGE, f"The file is {kind}, not an image.")
    if _TEXT.fullmatch(start):
        return ImageRejected(ErrorCode.NOT_AN_IMAGE, "The file is text, not an image.")
    return ImageRejected(
        ErrorCode.NOT_AN_IMAGE, f"No known image format starts with bytes {data[:8].hex(' ')}."
    )


def _signature(data: bytes) -> str | None:
    return next((name for at, magic, name in _SIGNATURES if data.startswith(magic, at)), None)


def _too_large(limits: DecodeLimits, pixels: int) -> ImageRejected:
    return ImageRejected(
        ErrorCode.TOO_LARGE, f"{pixels:,} pixels are more than the limit of {limits.max_pixels:,}."
    )


def _clean(message: str) -> str:
    """A library's message as part of a sentence: one line, short, without addresses."""
    message = re.sub(r"<[^>]*>|\b0x[0-9a-fA-F]+", "...", message)
    message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return message[:120].rstrip(". ") or "no reason given"
