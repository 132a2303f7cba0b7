"""Colour models and depths to 8 bits of grey or RGB, by the rules at the top of `decoding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import tiff

if TYPE_CHECKING:
    import numpy.typing as npt

# Formats whose writers leave the fourth byte of a pixel unset.
_LOOSE_ALPHA = {"BMP", "DIB", "TGA", "ICO", "DDS", "PSD", "SGI"}


def resizable(image: Image.Image, data: bytes) -> Image.Image:
    """The image in L, RGB or, where it has transparency, RGBa (premultiplied: edges keep clean).

    Args:
        image: opened, and loaded unless it is a JPEG.
        data: the file.

    Raises:
        ImageRejected: Pillow reads another picture than the file holds.
    """
    if image.format == "JPEG2000" and len(image.getbands()) > 1 and _jpeg2000_bits(data) > 8:
        # Pillow rounds the lightest values up, beyond 255 to 0: white turns black.
        raise ImageRejected(
            ErrorCode.UNSUPPORTED, "JPEG 2000 in colour is decoded up to 8 bits a channel only."
        )
    samples = tiff.samples(image)
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, samples)
    if image.mode in ("I", "F") or samples.signed:
        return _from_wide(image, samples)
    if image.has_transparency_data:  # RGBA, LA, PA, or a transparent colour in the metadata
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        loose = samples.undeclared_alpha or image.format in _LOOSE_ALPHA
        if loose and not _means_alpha(rgba, image.format, data):
            return rgba.convert("RGB")
        return rgba.convert("RGBa")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _jpeg2000_bits(data: bytes) -> int:
    """Most bits of a channel of a JPEG 2000, 0 where its header is not found."""
    at = data.find(b"\xff\x4f\xff\x51") + 4
    channels = int.from_bytes(data[at + 36 : at + 38], "big")
    depths = data[at + 38 : at + 38 + 3 * channels : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=0)


def _means_alpha(rgba: Image.Image, format_: str | None, data: bytes) -> bool:
    """Whether the fourth channel is an opacity: not where the file says so or all of it is 0."""
    if format_ == "TGA" and not data[17] & 15:  # bits of alpha, says the header
        return False
    return rgba.getchannel("A").getextrema() != (0, 0)


def _from_16_bit(image: Image.Image, samples: tiff.Samples) -> Image.Image:
    """16-bit grey: the high byte (Pillow's own conversion clips at 255)."""
    values = np.asarray(image)
    bits = samples.bits if not (values >> samples.bits).any() else 16
    grey = (values >> (bits - 8)).astype(np.uint8)
    if samples.white_is_zero:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return Image.fromarray(grey)
    opaque = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (Image.fromarray(grey), opaque)).convert("RGBA").convert("RGBa")


def _from_wide(image: Image.Image, samples: tiff.Samples) -> Image.Image:
    """Signed and 32-bit integers, and floats."""
    values = np.asarray(image)
    if samples.swapped_bytes == 2:
        values = values.astype(np.int16).byteswap().astype(np.int32)
    elif samples.swapped_bytes:
        values = values.byteswap()
    if samples.signed:
        values = values.view(np.int8)
    if samples.unsigned_32:
        values = values.view(np.uint32)
    plain = image.mode == "I" and not samples.signed_16
    if plain and values.min() >= 0 and values.max() <= 0xFFFF:
        grey = (values >> 8).astype(np.uint8)
    else:
        grey = _stretched(values)
    return Image.fromarray(255 - grey if samples.white_is_zero else grey)


def _stretched(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """From the smallest finite value (0) to the largest (255)."""
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, values[finite].min() if finite.any() else 0)
    low, high = float(values.min()), float(values.max())
    grey = np.empty(values.shape, np.uint8)
    for row in range(0, len(grey), 64):  # in strips: a float64 copy of the whole would be large
        strip = values[row : row + 64].astype(np.float64)
        grey[row : row + 64] = np.rint((strip - low) * (255 / ((high - low) or 1)))
    return grey


def rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3), or (H, W, 1) for grey, of what `resizable` gave."""
    pixels: npt.NDArray[np.uint8] = np.asarray(image)
    if image.mode == "L":
        return pixels[:, :, np.newaxis]
    if image.mode == "RGBa":  # premultiplied over white: what alpha leaves free is white
        return pixels[:, :, :3] + (255 - pixels[:, :, 3:])
    return pixels
