"""Random changes to training images, as a Keras layer of the training model only.

The layer draws nothing itself: it takes uniform random numbers beside the pixels. They follow from
the seed and an image's place in the order of training, so N workers train on the same pixels as
one, and a resumed run on those of an undisturbed one.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import keras
from keras import layers, ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNIFORMS = 12  # random numbers that one image needs

_ROTATION_RADIANS = math.radians(15)
_SMALLEST_CROP, _LARGEST_CROP = 0.6, 1.1  # side of the part that is seen, in sides of the image
_ASPECT = 1.25  # the part's aspect ratio is changed by up to this factor either way
_LIGHT = 0.35  # brightness, contrast and colour change by up to this fraction
_GREY = 0.1  # probability of no colour at all
_ERASE = 0.5  # probability that a rectangle is blanked
_LARGEST_ERASED = 0.45  # its sides, in sides of the image
# What each random number is where it changes nothing, and how far `light` lets it go from there.
_NEUTRAL = (0.0, 0.5, 0.8, 0.5, 0.0, 0.0, 0.5, 0.5, 0.55, 0.0, 0.0, 0.0)
_LIGHT_SPAN = (1.0, 0.3, 0.75, 0.3, 1.0, 1.0, 0.3, 0.3, 0.3, 0.0, 1.0, 1.0)
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


class Augmentation(layers.Layer):  # type: ignore[misc]
    """Flip, crop, rotation, stretch, light, colour and a blanked rectangle.

    Geometry is ONE affine resampling, whatever is asked for: each further one would blur.
    Call it on `(pixels, uniforms)`: uint8 (n, H, W, 3) and float32 (n, UNIFORMS) in [0, 1). Gives
    uint8 (n, scale H, scale W, 3): the network sees the same kind of pixels in training and in
    classification.

    Args:
        scale: side of what comes out, in sides of what goes in.
        light: whether changes are small: nothing is blanked, no colour is lost.
        compiled: makes one pass of a function, where the backend can.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        light: bool = False,
        compiled: Callable[..., Any] = lambda function: function,
        **arguments: Any,
    ) -> None:
        super().__init__(dtype="float32", **arguments)
        self._scale, self._light, self._compiled = scale, light, compiled

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """The changed pixels."""
        pixels, uniforms = inputs
        if self._light:
            neutral, span = (ops.convert_to_tensor(each) for each in (_NEUTRAL, _LIGHT_SPAN))
            uniforms = neutral + span * (ops.cast(uniforms, "float32") - neutral)
        # One after the other: as a single function XLA writes each step out, at four times the time.
        size = self._size(pixels.shape)
        moved = self._compiled(functools.partial(_moved, size=size))(pixels, uniforms[:, :6])
        return self._compiled(_recoloured)(moved, uniforms[:, 6:])

    def compute_output_spec(self, inputs: tuple[Any, Any]) -> Any:
        """As `call`."""
        shape = inputs[0].shape
        return keras.KerasTensor((shape[0], *self._size(shape), 3), "uint8")

    def _size(self, shape: Sequence[int]) -> tuple[int, int]:
        return round(self._scale * shape[1]), round(self._scale * shape[2])


def _moved(pixels: Any, uniforms: Any, size: tuple[int, int]) -> Any:
    """Flipped, rotated, cropped, stretched, shifted and scaled, in one bilinear resampling; float32."""
    height, width = pixels.shape[1:3]
    flip, turn, crop, stretch, right, down = _columns(uniforms, 2)
    mirror = ops.where(flip < 0.5, -1.0, 1.0)
    angle = _symmetric(turn) * _ROTATION_RADIANS
    side = _SMALLEST_CROP + (_LARGEST_CROP - _SMALLEST_CROP) * crop
    aspect = ops.exp(_symmetric(stretch) * (0.5 * math.log(_ASPECT)))
    across, along = side * aspect, side / aspect
    # A crop lies anywhere within the image.
    shift_x = _symmetric(right) * ops.abs(1.0 - across) * (0.5 * width)
    shift_y = _symmetric(down) * ops.abs(1.0 - along) * (0.5 * height)
    cosine, sine = ops.cos(angle), ops.sin(angle)
    # From the centre, which stays but for the shift; (n, new height, new width).
    y, x = (
        (ops.arange(new, dtype="float32") - (new - 1) / 2) * (old / new)
        for new, old in zip(size, (height, width), strict=True)
    )
    x, y = x[None, None, :], y[None, :, None]
    from_x = (width - 1) / 2 + shift_x + across * (mirror * cosine * x - sine * y)
    from_y = (height - 1) / 2 + shift_y + along * (mirror * sine * x + cosine * y)
    return _sampled(pixels, from_x, from_y)


def _sampled(pixels: Any, x: Any, y: Any) -> Any:
    """Pixels between those at x and y, (n, h, w) each; the image is mirrored at its edges.

    `ops.image.affine_transform` does the same, but computes each place for each colour: four times
    as long as this is when compiled.
    """
    height, width = pixels.shape[1:3]
    left, top = ops.floor(x), ops.floor(y)
    right_share, lower_share = (x - left)[..., None], (y - top)[..., None]
    left, top = ops.cast(left, "int32"), ops.cast(top, "int32")
    columns = [_mirrored(left, width), _mirrored(left + 1, width)]
    rows = [_mirrored(top, height), _mirrored(top + 1, height)]
    image = ops.arange(ops.shape(pixels)[0], dtype="int32")[:, None, None] * (height * width)
    colours = ops.reshape(ops.cast(pixels, "float32"), (-1, 3))
    upper, lower = (
        (1.0 - right_share) * ops.take(colours, image + row * width + columns[0], axis=0)
        + right_share * ops.take(colours, image + row * width + columns[1], axis=0)
        for row in rows
    )
    return (1.0 - lower_share) * upper + lower_share * lower


def _mirrored(place: Any, size: int) -> Any:
    """Places beyond the edges, within."""
    place = ops.mod(place, 2 * size)
    return ops.minimum(place, 2 * size - 1 - place)


def _recoloured(pixels: Any, uniforms: Any) -> Any:
    """All that happens to pixels in their place; uint8."""
    columns = _columns(uniforms, 3)
    pixels = _erased(_relit(pixels, columns[:3]), columns[3:])
    return ops.cast(ops.round(ops.clip(pixels, 0.0, 255.0)), "uint8")


def _relit(pixels: Any, columns: list[Any]) -> Any:
    """With other brightness, contrast and colour; some without colour."""
    brightness, contrast = (1.0 + _LIGHT * _symmetric(column) for column in columns[:2])
    # The first tenth of the range means grey, the rest is stretched over all strengths of colour.
    coloured = (columns[2] - _GREY) / (1.0 - _GREY)
    saturation = ops.where(columns[2] < _GREY, 0.0, 1.0 + _LIGHT * _symmetric(coloured))
    luminance = ops.sum(pixels * ops.convert_to_tensor(_LUMINANCE), axis=-1, keepdims=True)
    mean = ops.mean(luminance, axis=(1, 2), keepdims=True)
    gain = brightness * contrast
    return (
        (gain * saturation) * pixels
        + (gain * (1.0 - saturation)) * luminance
        + brightness * (1.0 - contrast) * mean
    )


def _erased(pixels: Any, columns: list[Any]) -> Any:
    """With a grey rectangle over a part of some images."""
    height, width = pixels.shape[1:3]
    size, x, y = columns
    # One number decides whether and how large: its upper part is spread over the sizes.
    side = _LARGEST_ERASED * ops.maximum(size - (1.0 - _ERASE), 0.0) / _ERASE
    across = (ops.arange(width, dtype="float32") + 0.5)[None, None, :, None] / width
    along = (ops.arange(height, dtype="float32") + 0.5)[None, :, None, None] / height
    inside = ops.logical_and(ops.abs(across - x) < side / 2, ops.abs(along - y) < side / 2)
    return ops.where(inside, 127.0, pixels)


def _columns(uniforms: Any, axes: int) -> list[Any]:
    """Each column of (n, k), with so many axes more, to broadcast over those of images."""
    columns = ops.split(ops.cast(uniforms, "float32"), uniforms.shape[1], axis=1)
    return [ops.reshape(column, (-1,) + (1,) * axes) for column in columns]


def _symmetric(uniform: Any) -> Any:
    """From [0, 1) to [-1, 1)."""
    return 2.0 * uniform - 1.0
