"""Bytes to pixels: one documented way, the same in training and in classification.

How any picture becomes uint8 RGB:

1. EXIF (or TIFF, XMP, HEIF) orientation is applied; of an animation or a multi-page file the first
   picture counts. ICC profiles are ignored.
2. Colour: grey, palette, CMYK and YCCK, YCbCr, LAB and 1-bit are converted as Pillow does. Alpha
   (also a palette's or a PNG's transparent colour) is composited on white. Of 16 bits a channel
   the high byte counts. 32-bit integers that all fit 16 bits are 16-bit grey; other signed or
   32-bit integers, and floats, have no agreed range: they are stretched from their smallest finite
   value (0) to their largest (255). docs/pixels.md has every kind, and why.
3. Geometry: `Preprocessing.resize`, antialiased bilinear: it never overshoots, and it is the
   filter that Keras, torchvision and tf.image mean by `bilinear` with `antialias`. A JPEG that is
   much larger than needed is first scaled in its DCT (`Image.draft`), which measured a third
   faster over whole photos.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import AvifImagePlugin, Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import colours, formats, tiff, whole_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from catdog.pixels.preprocessing import DecodeLimits, Preprocessing

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as a model sees it, and what its original was.

    Attributes:
        pixels: uint8 (H, W, 3), RGB, C-contiguous.
        width: columns of the original, after orientation.
        height: rows of the original, after orientation.
        format: Pillow's name, `JPEG` for one.
        decoded: share of the picture that the file had, 1 for all of it.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    format: str
    decoded: float = 1.0


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
    if data.startswith(whole_pixels.PNG_MAGIC):
        data = whole_pixels.essential_png(data)
    with _pillow_settings(limits) as caught:
        try:
            if whole_pixels.ends_in_zeros(data):
                raise formats.cut(str(formats.signature(data)), "zeros take the place of its end")
            return _decoded(data, preprocessing, limits, out, caught)
        except ImageRejected as rejected:
            if rejected.code != ErrorCode.TRUNCATED:
                raise
            found = whole_pixels.salvaged(data, limits.max_pixels)
            if found is None or (found.share < 1 and limits.truncated != "decode"):
                raise
        decoded = _decoded(found.data, preprocessing, limits, out, caught)
        return replace(decoded, decoded=found.share)


def _decoded(
    data: bytes,
    preprocessing: Preprocessing,
    limits: DecodeLimits,
    out: npt.NDArray[np.uint8],
    caught: list[warnings.WarningMessage],
) -> DecodedImage:
    format_ = ""
    formats.refuse_unreadable_items(data)
    try:
        with Image.open(BytesIO(data), formats=formats.FORMATS) as image:
            format_ = image.format or ""
            width, height = _decode_opened(image, data, preprocessing, limits, out)
    except ImageRejected:
        raise
    except UnidentifiedImageError:
        raise formats.unidentified(data, [str(warning.message) for warning in caught]) from None
    except Exception as error:
        raise formats.rejected(
            error, format_ or formats.signature(data) or "image", limits
        ) from None
    return DecodedImage(pixels=out, width=width, height=height, format=format_)


@contextlib.contextmanager
def _pillow_settings(limits: DecodeLimits) -> Iterator[list[warnings.WarningMessage]]:
    """All of Pillow's global settings, for the time of one image.

    - `MAX_IMAGE_PIXELS`: Pillow checks it also inside files (WebP before its canvas is allocated,
      frames, tiles, icons), and raises above twice its value: our limit, in Pillow's places.
    - `WARN_POSSIBLE_FORMATS`: why a recognised file did not open comes only as a warning.
    - AVIF's decoder would start a thread for each core: the cores are shared out one level above.
    - `LOAD_TRUNCATED_IMAGES`: what is cut is an error.
    - Warnings are kept from the log: of a million images thousands have odd metadata.
    """
    # Every one restored: other code in the process may use Pillow too.
    before = (
        Image.MAX_IMAGE_PIXELS,
        Image.WARN_POSSIBLE_FORMATS,
        AvifImagePlugin.DEFAULT_MAX_THREADS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
        Image.WARN_POSSIBLE_FORMATS = True
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield caught
        finally:
            Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS = before[:2]
            AvifImagePlugin.DEFAULT_MAX_THREADS, ImageFile.LOAD_TRUNCATED_IMAGES = before[2:]


def _decode_opened(
    image: Image.Image,
    data: bytes,
    preprocessing: Preprocessing,
    limits: DecodeLimits,
    out: npt.NDArray[np.uint8],
) -> tuple[int, int]:
    """Decodes into `out`; the original's width and height after orientation."""
    if image.width * image.height > limits.max_pixels:
        raise formats.too_large(limits, image.width * image.height)
    tiff.refuse_undecodable(image)
    draftable = isinstance(image, JpegImagePlugin.JpegImageFile)
    if not draftable:  # PNG may have its orientation after the pixels, TIFF turns itself
        image.load()
        if image.format == "PNG" and whole_pixels.lacks_rows(data, image):
            raise formats.cut("PNG", "rows are missing")
    orientation = _orientation(image)
    width, height = _turned(image.size, orientation)
    size, share = _geometry(width, height, preprocessing)
    stored_size, stored_share = _turned(size, orientation), _turned(share, orientation)
    extent: tuple[float, float] = image.size
    if draftable and (drafted := image.draft(None, stored_size)):
        # Drafted sizes are rounded up: the picture's own edge lies inside the last pixel.
        extent = drafted[1][2:]
    small = _resized(colours.resizable(image, data), extent, stored_share, stored_size)
    if orientation in _TRANSPOSE:
        small = small.transpose(_TRANSPOSE[orientation])
    if size == (preprocessing.width, preprocessing.height):
        out[...] = colours.rgb(small)
    else:
        left, top = (preprocessing.width - size[0]) // 2, (preprocessing.height - size[1]) // 2
        out[...] = 0
        out[top : top + size[1], left : left + size[0]] = colours.rgb(small)
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


def _resized(
    image: Image.Image,
    extent: tuple[float, float],
    share: tuple[float, float],
    size: tuple[int, int],
) -> Image.Image:
    """The centred `share` of the picture, which covers `extent` of the image, scaled to `size`.

    Pillow from 13 on scales first what leaves fewer pixels: a picture one pixel wide and a million
    high needs no memory.
    """
    (width, height), (share_x, share_y) = extent, share
    left, right = width * (1 - share_x) / 2, width * (1 + share_x) / 2
    top, bottom = height * (1 - share_y) / 2, height * (1 + share_y) / 2
    return image.resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom))
