"""Cats and dogs drawn with Pillow: labelled pictures for `catdog demo` and the tests, offline.

The label decides the anatomy only. Size, pose, coat, backdrop, light and compression come from the
seed alone, so a cat and a dog of one seed share everything but their shape, and neither colour nor
size gives the label away.
"""

from __future__ import annotations

import io
import random
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from catdog.demo.animals import (
    BODIES,
    REACH,
    cat_build,
    cat_face,
    cat_profile,
    dog_build,
    dog_face,
    dog_profile,
    draw_collar,
    paint_fur,
)
from catdog.demo.backdrops import BACKDROPS
from catdog.demo.looks import Look
from catdog.demo.shapes import Canvas, Frame

Label = Literal["cat", "dog"]
LABELS: tuple[Label, ...] = get_args(Label)

# The canvas is twice the picture, and shrunk at the end: smooth edges. Above this many pixels a
# side, less than twice is smooth enough and a good deal quicker.
_LONGEST_CANVAS = 420


@cache
def _grain() -> Image.Image:
    """One tile of grey noise around 128, cut anew for every picture."""
    noise = np.random.default_rng(0).normal(128, 40, (640, 640))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _developed(image: Image.Image, look: Look, rng: random.Random) -> Image.Image:
    """Light from one side, exposure, colour of the light, blur, grain."""
    lamp = Image.new("L", (2, 2))
    for x in range(2):
        for y in range(2):
            lamp.putpixel((x, y), rng.randint(205, 255))
    light = lamp.resize(image.size, Image.Resampling.BILINEAR)
    image = ImageChops.multiply(image, Image.merge("RGB", (light, light, light)))
    exposed = (np.arange(256) - 128) * look.contrast + 136 + look.brightness
    gains = (1 + look.warmth, 1.0, 1 - look.warmth)
    channels = np.concatenate([exposed * gain for gain in gains]).clip(0, 255)
    image = image.point(channels.astype(int).tolist())
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur))
    if look.noise:
        x, y = rng.randrange(200), rng.randrange(200)
        grain = _grain().crop((x, y, x + image.width, y + image.height))
        faint = (np.arange(256) - 128) * (look.noise / 40) + 128
        grain = grain.point(faint.astype(int).tolist())
        image = ImageChops.add(image, Image.merge("RGB", (grain, grain, grain)), 1, -128)
    return image


def draw_with_look(label: Label, seed: int) -> tuple[Image.Image, Look]:
    """The picture of `draw`, RGB, and everything about it but the anatomy."""
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    look = Look.drawn_from(rng)
    enlarged = min(2.0, _LONGEST_CANVAS / max(look.width, look.height))
    width, height = round(look.width * enlarged), round(look.height * enlarged)
    canvas = Canvas(BACKDROPS[look.backdrop]((width, height), rng))

    left, top, right, bottom = REACH[look.pose]
    unit = look.zoom * min(width / (right - left), height / (bottom - top))
    spare_x, spare_y = width - (right - left) * unit, height - (bottom - top) * unit
    x = spare_x / 2 + look.shift[0] * max(spare_x, 0) * 0.45 - left * unit
    y = spare_y / 2 + look.shift[1] * max(spare_y, 0) * 0.45 - top * unit
    frame = Frame(x if look.side == 1 else width - x, y, unit, look.lean, look.side)
    fur = paint_fur((width, height), frame, look, rng)
    collar = rng.random()
    film = random.Random(rng.random())  # noqa: S311 - apart: anatomy draws as much as it likes

    cat = label == "cat"
    build = cat_build(rng) if cat else dog_build(rng)
    BODIES[look.pose](canvas, frame, fur, build)
    if collar < (0.3 if cat else 0.7):
        draw_collar(canvas, frame, look)
    head = frame.moved(0, 0, turn=look.head_turn)
    if look.pose == "standing" and look.profile:
        (cat_profile if cat else dog_profile)(canvas, head, fur, rng)
    else:
        (cat_face if cat else dog_face)(canvas, head, fur, look.yaw, rng)
    small = canvas.image.resize((look.width, look.height), Image.Resampling.BILINEAR)
    return _developed(small, look, film), look


def draw(label: Label, seed: int) -> Image.Image:
    """A picture of a cat or a dog, RGB, 80 to 400 pixels a side; the same for the same seed."""
    return draw_with_look(label, seed)[0]


def draw_jpeg(label: Label, seed: int) -> bytes:
    """The picture of `draw` as a JPEG, of a quality that the seed decides."""
    image, look = draw_with_look(label, seed)
    return encode(image, "JPEG", quality=look.quality)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The picture as a file of a format that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
