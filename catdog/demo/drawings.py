"""Cats and dogs drawn with Pillow: labelled pictures for `catdog demo` and the tests, offline.

The label decides the anatomy only. Size, pose, coat, backdrop, light and compression come from the
seed alone, so a cat and a dog of one seed share everything but their shape, and neither colour nor
size gives the label away.

Coordinates: a figure is drawn in a frame whose origin is the middle of the head and whose unit is
half the head's width; y points down. The frame maps them to pixels.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter

from catdog.errors import ErrorCode

if TYPE_CHECKING:
    from pathlib import Path

Label = Literal["cat", "dog"]
LABELS: tuple[Label, ...] = get_args(Label)

Point = tuple[float, float]
Colour = tuple[int, int, int]
Paint = Colour | Image.Image

_INK: Colour = (34, 26, 26)
_WHITE: Colour = (250, 247, 240)
_PINK: Colour = (232, 150, 150)
_TONGUE: Colour = (226, 98, 112)

# The canvas is twice the picture, and shrunk at the end: smooth edges. Above this many pixels a
# side, less than twice is smooth enough and a good deal quicker.
_LONGEST_CANVAS = 420


# --- outlines, in a figure's own coordinates ---

_CIRCLE = [(math.cos(a * math.tau / 28), math.sin(a * math.tau / 28)) for a in range(28)]


def _oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[Point]:
    """An ellipse around (x, y), turned by `turn` radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x + rx * c * cos - ry * s * sin, y + rx * c * sin + ry * s * cos) for c, s in _CIRCLE]


_SPLINE_STEPS = 6
# What a curve's four nearest points weigh at each step from the second to the third.
_SPLINE_WEIGHTS = [
    (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    for t in (step / _SPLINE_STEPS for step in range(_SPLINE_STEPS))
]


def _spline(points: Sequence[Point], *, closed: bool) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    if closed:
        knots = [points[-1], *points, points[0], points[1]]
    else:
        knots = [points[0], *points, points[-1]]
    curve = [
        (
            a * ax + b * bx + c * cx + d * dx,
            a * ay + b * by + c * cy + d * dy,
        )
        for (ax, ay), (bx, by), (cx, cy), (dx, dy) in zip(
            knots, knots[1:], knots[2:], knots[3:], strict=False
        )
        for a, b, c, d in _SPLINE_WEIGHTS
    ]
    return curve if closed else [*curve, points[-1]]


def _blob(*points: Point) -> list[Point]:
    return _spline(points, closed=True)


def _ribbon(points: Sequence[Point], start: float, end: float) -> list[Point]:
    """A limb or tail along the points, `start` wide at its root and `end` at its rounded tip."""
    middle = _spline(points, closed=False)
    left, right = [], []
    last = len(middle) - 1
    nx, ny = 0.0, 0.0
    for i, (x, y) in enumerate(middle):
        (ax, ay), (bx, by) = middle[max(i - 1, 0)], middle[min(i + 1, last)]
        length = math.hypot(bx - ax, by - ay) or 1.0
        half = 0.5 * (start + (end - start) * i / last)
        nx, ny = (by - ay) / length, (ax - bx) / length
        left.append((x + nx * half, y + ny * half))
        right.append((x - nx * half, y - ny * half))
    tip_x, tip_y = middle[-1]
    tip = [
        (
            tip_x + 0.5 * end * (nx * math.cos(a) - ny * math.sin(a)),
            tip_y + 0.5 * end * (nx * math.sin(a) + ny * math.cos(a)),
        )
        for a in (0.6, 1.2, math.pi / 2, 1.9, 2.5)
    ]
    return left + tip + right[::-1]


def _ruffled(outline: list[Point], depth: float) -> list[Point]:
    """The outline with every other point pulled towards the middle: tousled fur."""
    if not depth:
        return outline
    x = sum(p[0] for p in outline) / len(outline)
    y = sum(p[1] for p in outline) / len(outline)
    return [
        (x + (px - x) * (1 - depth * (i % 2)), y + (py - y) * (1 - depth * (i % 2)))
        for i, (px, py) in enumerate(outline)
    ]


def _mirror(outline: Sequence[Point], side: int) -> list[Point]:
    """The outline as it is for side 1, flipped left to right for side -1."""
    return [(x * side, y) for x, y in outline]


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b, the rest of a."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


@dataclass(frozen=True)
class _Frame:
    """Maps a figure's coordinates to canvas pixels: turn, mirror, scale, move."""

    x: float
    y: float
    unit: float
    turn: float = 0.0
    side: int = 1

    def pixels(self, outline: Sequence[Point]) -> list[Point]:
        """The outline on the canvas."""
        x, y, side = self.x, self.y, self.side
        cos, sin = math.cos(self.turn) * self.unit, math.sin(self.turn) * self.unit
        return [(x + side * (px * cos - py * sin), y + px * sin + py * cos) for px, py in outline]

    def moved(self, x: float, y: float, *, scale: float = 1.0, turn: float = 0.0) -> _Frame:
        ((px, py),) = self.pixels([(x, y)])
        return _Frame(px, py, self.unit * scale, self.turn + turn, self.side)


class _Canvas:
    """Fills and strokes outlines of one frame after the other on an RGB picture."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)

    def fill(self, frame: _Frame, outline: Sequence[Point], paint: Paint) -> None:
        self._fill(frame.pixels(outline), paint)

    def _fill(self, pixels: list[Point], paint: Paint) -> None:
        if isinstance(paint, tuple):
            self._draw.polygon(pixels, fill=paint)
            return
        xs, ys = [p[0] for p in pixels], [p[1] for p in pixels]
        width, height = self.image.size
        left, top = max(int(min(xs)), 0), max(int(min(ys)), 0)
        right, bottom = min(int(max(xs)) + 2, width), min(int(max(ys)) + 2, height)
        if left >= right or top >= bottom:
            return
        mask = Image.new("1", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=1)
        box = (left, top, right, bottom)
        self.image.paste(paint.crop(box), box, mask)

    def stroke(
        self, frame: _Frame, points: Sequence[Point], colour: Colour, width: float = 0.04
    ) -> None:
        """A line of `width` units through the points."""
        self._draw.line(frame.pixels(points), fill=colour, width=max(1, round(width * frame.unit)))

    def part(self, frame: _Frame, outline: Sequence[Point], paint: Paint, ink: Colour) -> None:
        """A filled outline with a drawn contour."""
        pixels = frame.pixels(outline)
        self._fill(pixels, paint)
        width = max(1, round(0.04 * frame.unit))
        self._draw.line([*pixels, pixels[0]], fill=ink, width=width)

    def shadow(self, frame: _Frame, outline: Sequence[Point], strength: float) -> None:
        """Darken what lies under the outline by `strength`, 0 to 1."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(frame.pixels(outline), fill=round(255 * strength))
        self.image.paste((12, 10, 20), None, mask)


# --- what the seed decides, whatever the label ---

_FURS: tuple[Colour, ...] = (
    (238, 232, 220),  # white
    (236, 208, 160),  # cream
    (222, 140, 62),  # ginger
    (176, 118, 70),  # tan
    (112, 74, 48),  # brown
    (150, 150, 154),  # grey
    (104, 112, 126),  # blue
    (62, 56, 56),  # black
)
_COLLARS: tuple[Colour, ...] = (
    (200, 40, 48),
    (38, 92, 190),
    (32, 140, 96),
    (236, 180, 40),
    (140, 64, 160),
)

_Pattern = Literal["plain", "stripes", "patches", "spots"]
_Pose = Literal["face", "sitting", "lying", "standing"]


@dataclass(frozen=True)
class _Coat:
    """Colours of the fur and how they are laid out."""

    base: Colour
    marks: Colour
    light: Colour
    pattern: _Pattern
    white_bib: bool
    ruffle: float
    ink: Colour

    @classmethod
    def drawn_from(cls, rng: random.Random) -> _Coat:
        base = rng.choice(_FURS)
        base = _mix(base, rng.choice(_FURS), rng.uniform(0, 0.25))
        bright = sum(base) / 3
        marks = rng.choice([fur for fur in _FURS if abs(sum(fur) / 3 - bright) > 40])
        ink = _mix(base, _INK, 0.75) if bright > 85 else (18, 14, 16)
        return cls(
            base=base,
            marks=_mix(base, marks, rng.uniform(0.55, 0.95)),
            light=_mix(base, _WHITE, rng.uniform(0.35, 0.9)),
            pattern=rng.choice(("plain", "plain", "stripes", "patches", "spots")),
            white_bib=rng.random() < 0.4,
            ruffle=rng.choice((0.0, 0.0, 0.05)),
            ink=ink,
        )


@dataclass(frozen=True)
class _Look:
    """Everything about a picture but the animal's anatomy."""

    width: int
    height: int
    pose: _Pose
    side: int
    zoom: float
    shift: Point
    lean: float
    head_turn: float
    yaw: float
    profile: bool
    coat: _Coat
    collar: Colour
    backdrop: str
    brightness: float
    contrast: float
    warmth: float
    blur: float
    noise: float
    quality: int

    @classmethod
    def drawn_from(cls, rng: random.Random) -> _Look:
        longest = rng.triangular(110, 400, 190)
        aspect = rng.choice((1.0, 0.75, 0.8, 0.67, 1.0, 0.9)) * rng.uniform(0.93, 1.07)
        short, long = max(80, round(longest * min(aspect, 1.0))), round(longest)
        pose: _Pose = rng.choice(("face", "face", "sitting", "sitting", "lying", "standing"))
        tall = rng.random() < {"face": 0.5, "sitting": 0.7, "lying": 0.15, "standing": 0.1}[pose]
        return cls(
            width=short if tall else long,
            height=long if tall else short,
            pose=pose,
            side=rng.choice((1, -1)),
            zoom=rng.uniform(0.82, 1.12),
            shift=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
            lean=rng.gauss(0, 0.04),
            head_turn=rng.gauss(0, 0.14),
            yaw=rng.uniform(-1, 1),
            profile=rng.random() < 0.5,
            coat=_Coat.drawn_from(rng),
            collar=rng.choice(_COLLARS),
            backdrop=rng.choice(tuple(_BACKDROPS)),
            brightness=rng.gauss(8, 14),
            contrast=rng.uniform(0.85, 1.15),
            warmth=rng.gauss(0, 0.06),
            blur=rng.choice((0.0, 0.0, 0.0, rng.uniform(0.3, 1.4))),
            noise=rng.choice((0.0, 0.0, rng.uniform(2, 10))),
            quality=rng.randint(45, 95),
        )


# --- backdrops ---


def _hue(rng: random.Random, saturation: float, value: float) -> Colour:
    """A random hue; saturation and value within 0 to 1."""
    angle = rng.uniform(0, math.tau)
    red, green, blue = (
        round(255 * value * (1 - saturation * (0.5 + 0.5 * math.cos(angle + k * math.tau / 3))))
        for k in range(3)
    )
    return red, green, blue


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    strip = Image.new("RGB", (1, 2))
    strip.putpixel((0, 0), top)
    strip.putpixel((0, 1), bottom)
    column = strip.resize((1, size[1]), Image.Resampling.BILINEAR)
    return column.resize(size, Image.Resampling.NEAREST)


def _studio(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Four colours that run into each other."""
    corners = Image.new("RGB", (2, 2))
    base = _hue(rng, rng.uniform(0.1, 0.7), rng.uniform(0.45, 1))
    for x in range(2):
        for y in range(2):
            other = _hue(rng, rng.uniform(0.1, 0.7), rng.uniform(0.3, 1))
            corners.putpixel((x, y), _mix(base, other, 0.5))
    return corners.resize(size, Image.Resampling.BILINEAR)


def _meadow(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Sky, clouds, hills, grass and flowers."""
    width, height = size
    sky = rng.choice(((112, 176, 232), (160, 200, 230), (236, 190, 150), (190, 200, 210)))
    image = _gradient(size, sky, _mix(sky, _WHITE, 0.7))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 3)):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.3 * height)
        for _ in range(4):
            r = rng.uniform(0.03, 0.07) * width
            pen.ellipse((x - r * 1.6, y - r, x + r * 1.6, y + r), fill=_mix(sky, _WHITE, 0.85))
            x += r
    horizon = rng.uniform(0.35, 0.7) * height
    for _ in range(2):
        x, r = rng.uniform(0, width), rng.uniform(0.4, 0.9) * width
        hill = _mix((96, 150, 96), sky, rng.uniform(0.1, 0.6))
        lift = rng.uniform(0.05, 0.2) * height
        pen.ellipse((x - r, horizon - lift, x + r, horizon + r), fill=hill)
    grass = _mix((92, 150, 60), (170, 170, 80), rng.random())
    lawn = _gradient((width, height - int(horizon)), grass, _mix(grass, (20, 50, 20), 0.4))
    image.paste(lawn, (0, int(horizon)))
    for _ in range(70):
        x, y = rng.uniform(0, width), rng.uniform(horizon, height)
        tip = rng.uniform(4, 12)
        shade = _mix(grass, rng.choice(((30, 70, 20), (220, 230, 140))), rng.uniform(0.2, 0.5))
        pen.line((x, y, x + rng.uniform(-4, 4), y - tip), fill=shade, width=2)
    petal = _hue(rng, 0.5, 1)
    for _ in range(rng.choice((0, 6, 14))):
        x, y, r = rng.uniform(0, width), rng.uniform(horizon, height), rng.uniform(2, 5)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=petal)
    return image


def _wall(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A painted or papered wall."""
    width, height = size
    colour = _hue(rng, rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.98))
    image = _gradient(size, _mix(colour, _WHITE, 0.2), _mix(colour, _INK, 0.12))
    pen = ImageDraw.Draw(image)
    paper = rng.choice(("plain", "stripes", "dots"))
    shade = _mix(colour, rng.choice((_WHITE, _INK)), 0.18)
    step = rng.randint(18, 50)
    if paper == "stripes":
        for x in range(0, width, step):
            pen.rectangle((x, 0, x + step // 3, height), fill=shade)
    elif paper == "dots":
        r = step // 7 + 1
        for row, y in enumerate(range(0, height, step)):
            for x in range(row % 2 * step // 2, width, step):
                pen.ellipse((x - r, y - r, x + r, y + r), fill=shade)
    return image


def _sofa(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A sofa with a cushion, in front of a wall."""
    width, height = size
    image = _wall(size, rng)
    pen = ImageDraw.Draw(image)
    cloth = _hue(rng, rng.uniform(0.2, 0.7), rng.uniform(0.4, 0.9))
    dark, lit = _mix(cloth, _INK, 0.25), _mix(cloth, _WHITE, 0.12)
    top, seat = rng.uniform(0.2, 0.45) * height, rng.uniform(0.62, 0.78) * height
    left, right = rng.uniform(-0.2, 0.1) * width, rng.uniform(0.9, 1.2) * width
    soft, arm = 0.07 * width, 0.14 * width
    pen.rounded_rectangle((left, top, right, height), soft, fill=cloth, outline=dark, width=3)
    middle = (left + right) / 2
    pen.line((middle, top, middle, seat), fill=dark, width=3)
    x, y = rng.uniform(0.1, 0.7) * width, seat - 0.2 * height
    box = (x, y, x + 0.25 * width, seat)
    pen.rounded_rectangle(box, soft, fill=_hue(rng, 0.5, 0.9), outline=dark, width=2)
    pen.rounded_rectangle((left, seat, right, 1.2 * height), soft, fill=lit, outline=dark, width=3)
    for x in (left, right - arm):
        box = (x, (top + seat) / 2, x + arm, 1.2 * height)
        pen.rounded_rectangle(box, soft, fill=cloth, outline=dark, width=3)
    return image


def _room(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A wall with a picture or a window, floorboards, a pot plant, a ball."""
    width, height = size
    image = _wall(size, rng)
    pen = ImageDraw.Draw(image)
    floor = rng.uniform(0.55, 0.8) * height
    x, y = rng.uniform(-0.05, 0.7) * width, rng.uniform(0.02, 0.2) * height
    pane = rng.choice(((170, 210, 240), (250, 220, 180), (50, 60, 100), (120, 170, 130)))
    wood = rng.choice(((176, 128, 84), (120, 82, 56), (206, 172, 130), (140, 132, 126)))
    box = (x, y, x + rng.uniform(0.2, 0.4) * width, y + rng.uniform(0.2, 0.4) * height)
    pen.rectangle(box, fill=pane, outline=_mix(wood, _WHITE, 0.5), width=5)
    if rng.random() < 0.5:
        middle = (box[0] + box[2]) / 2
        pen.line((middle, box[1], middle, box[3]), fill=_mix(wood, _WHITE, 0.5), width=4)
    image.paste(
        _gradient((width, height - int(floor)), wood, _mix(wood, _INK, 0.3)), (0, int(floor))
    )
    vanish = rng.uniform(0.2, 0.8) * width
    for k in range(-8, 17):
        foot = vanish + (k / 8 * width - vanish) * 2
        pen.line((k / 8 * width, floor, foot, height), fill=_mix(wood, _INK, 0.35), width=2)
    if rng.random() < 0.4:
        x, r = rng.choice((rng.uniform(0, 0.2), rng.uniform(0.8, 1))) * width, 0.06 * width
        for _ in range(7):
            leaf = _Frame(x, floor - r, 0.3 * height, rng.uniform(-0.8, 0.8))
            green = _mix((40, 110, 60), (120, 170, 80), rng.random())
            pen.polygon(leaf.pixels(_oval(0, -0.4, 0.1, 0.45)), fill=green)
        pot = [(x - r, floor - r), (x + r, floor - r), (x + r * 0.7, floor + r)]
        pen.polygon([*pot, (x - r * 0.7, floor + r)], fill=(186, 96, 64))
    if rng.random() < 0.4:
        x, y, r = rng.uniform(0, width), rng.uniform(floor, height), rng.uniform(0.03, 0.07) * width
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_hue(rng, 0.7, 0.95), outline=_INK, width=2)
    return image


def _beach(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Sky, sun, sea, sand."""
    width, height = size
    sky = rng.choice(((120, 190, 240), (250, 190, 140), (200, 210, 225)))
    image = _gradient(size, sky, _mix(sky, _WHITE, 0.6))
    pen = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0, width), rng.uniform(0, 0.3) * height, 0.07 * width
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 240, 180))
    sea, shore = rng.uniform(0.3, 0.5) * height, rng.uniform(0.55, 0.75) * height
    water = _mix((40, 120, 170), sky, rng.uniform(0, 0.4))
    image.paste(
        _gradient((width, height - int(sea)), _mix(water, _WHITE, 0.3), water), (0, int(sea))
    )
    for _ in range(10):
        x, y = rng.uniform(0, width), rng.uniform(sea, shore)
        pen.line((x, y, x + 0.1 * width, y), fill=_mix(water, _WHITE, 0.5), width=2)
    sand = _mix((232, 206, 150), (200, 180, 150), rng.random())
    edge = [(k / 8 * width, shore + rng.uniform(-0.03, 0.03) * height) for k in range(9)]
    pen.polygon([*edge, (width, height), (0, height)], fill=sand)
    for _ in range(60):
        x, y = rng.uniform(0, width), rng.uniform(shore + 0.03 * height, height)
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_mix(sand, _INK, rng.uniform(0.1, 0.3)))
    return image


def _night(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Moon, stars, roofs with lit windows."""
    width, height = size
    dark = _mix((24, 28, 64), (60, 40, 80), rng.random())
    image = _gradient(size, dark, _mix(dark, (230, 150, 140), rng.uniform(0.1, 0.5)))
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, r = rng.uniform(0, width), rng.uniform(0, 0.7 * height), rng.uniform(0.6, 2)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 220))
    x, y, r = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.3) * height, 0.09 * width
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 244, 210))
    x = rng.uniform(-0.2, 0) * width
    while x < width:
        wide, top = rng.uniform(0.15, 0.3) * width, rng.uniform(0.5, 0.8) * height
        house = _mix(dark, (90, 70, 90), rng.uniform(0.2, 0.8))
        roof = (x + wide / 2, top - rng.uniform(0, 0.15) * height)
        pen.polygon([(x, height), (x, top), roof, (x + wide, top), (x + wide, height)], fill=house)
        for _ in range(rng.randint(0, 2)):
            wx, wy = x + rng.uniform(0.2, 0.7) * wide, top + rng.uniform(0.03, 0.2) * height
            pen.rectangle((wx, wy, wx + 0.03 * width, wy + 0.05 * height), fill=(250, 210, 120))
        x += wide
    return image


def _garden(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Out of focus leaves and lights."""
    small = (max(size[0] // 4, 1), max(size[1] // 4, 1))
    base = _mix((50, 90, 50), _hue(rng, 0.6, 0.8), rng.uniform(0, 0.8))
    image = _gradient(small, _mix(base, _WHITE, 0.3), _mix(base, _INK, 0.3))
    pen = ImageDraw.Draw(image)
    for _ in range(28):
        x, y, r = rng.uniform(0, small[0]), rng.uniform(0, small[1]), rng.uniform(2, 14)
        tint = _mix(base, rng.choice((_WHITE, _INK, _hue(rng, 0.7, 0.9))), rng.uniform(0.1, 0.5))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tint)
    blurred = image.filter(ImageFilter.BoxBlur(rng.uniform(1, 4)))
    return blurred.resize(size, Image.Resampling.BILINEAR)


def _blanket(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A checked, woven blanket."""
    width, height = size
    base = _hue(rng, rng.uniform(0.2, 0.7), rng.uniform(0.5, 0.95))
    rows, columns = rng.randint(4, 12), rng.randint(4, 12)
    other = _mix(base, _hue(rng, 0.6, 0.9), rng.uniform(0.2, 0.7))
    checks = Image.new("RGB", (columns, rows), base)
    for column in range(columns):
        for row in range(rows):
            share = (0.5 * (column % 2) + 0.5 * (row % 2)) * 0.8 + rng.uniform(0, 0.2)
            checks.putpixel((column, row), _mix(base, other, share))
    soft = rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR))
    image = checks.resize(size, soft)
    turn = rng.uniform(-0.2, 0.2)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x = rng.uniform(0, width)
        fold = (x, 0, x + turn * height, height)
        pen.line(fold, fill=_mix(base, _INK, 0.25), width=rng.randint(2, 6))
    return image


_BACKDROPS: Mapping[str, Callable[[tuple[int, int], random.Random], Image.Image]] = {
    "studio": _studio,
    "meadow": _meadow,
    "sofa": _sofa,
    "room": _room,
    "beach": _beach,
    "night": _night,
    "garden": _garden,
    "blanket": _blanket,
}


# --- the animals ---

# How far a figure reaches from the middle of its head: left, top, right, bottom.
_REACH: Mapping[_Pose, tuple[float, float, float, float]] = {
    "face": (-1.3, -1.5, 1.3, 1.5),
    "sitting": (-1.7, -1.5, 1.9, 3.2),
    "lying": (-3.3, -1.5, 1.45, 1.75),
    "standing": (-3.9, -1.6, 1.7, 2.75),
}


class _Fur:
    """The coat as pictures of the canvas's size, one for the body and one for the head."""

    def __init__(self, body: Image.Image, head: Image.Image, coat: _Coat) -> None:
        self.body = body
        self.head = head
        self.coat = coat

    @cached_property
    def far(self) -> Image.Image:
        """The body's fur on the side away from the viewer, darker."""
        return self.body.point([k * 4 // 5 for k in range(256)] * 3)


def _fur(size: tuple[int, int], frame: _Frame, look: _Look, rng: random.Random) -> _Fur:
    """Lay the pattern where the figure will stand; the parts cut their shapes out of it."""
    coat = look.coat
    left, _, right, bottom = _REACH[look.pose]
    body = _Canvas(Image.new("RGB", size, coat.base))
    head = _Canvas(Image.new("RGB", size, coat.base))
    if coat.pattern == "stripes":
        _stripe(body, frame, look, rng)
    elif coat.pattern == "patches":
        for _ in range(6):
            x, y = rng.uniform(left, right), rng.uniform(0.5, bottom)
            blot = _oval(x, y, rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.5), rng.uniform(0, 3))
            body.fill(frame, _ruffled(blot, 0.12), coat.marks)
        x = rng.choice((-0.55, 0.55))
        head.fill(frame, _oval(x, -0.3, 0.55, rng.uniform(0.5, 0.9), 0.3 * x), coat.marks)
    elif coat.pattern == "spots":
        for _ in range(46):
            x, y = rng.uniform(left, right), rng.uniform(0.6, bottom)
            r = rng.uniform(0.05, 0.13)
            body.fill(frame, _oval(x, y, r, r), coat.marks)
        for _ in range(9):
            x, y, r = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, -0.35), rng.uniform(0.04, 0.09)
            head.fill(frame, _oval(x, y, r, r), coat.marks)
    # The underside lies in the animal's own shadow.
    column = Image.linear_gradient("L").resize((1, size[1]))
    shade = column.point([k * 2 // 5 for k in range(256)]).resize(size, Image.Resampling.NEAREST)
    dusk = _mix(coat.base, (30, 20, 50), 0.6)
    body.image.paste(dusk, None, shade)
    if coat.pattern == "plain":
        return _Fur(body.image, body.image, coat)
    head.image.paste(dusk, None, shade)
    return _Fur(body.image, head.image, coat)


def _stripe(body: _Canvas, frame: _Frame, look: _Look, rng: random.Random) -> None:
    """Tabby stripes: across the back of a figure seen from the side, else in from both sides."""
    marks = look.coat.marks
    left, _, _, bottom = _REACH[look.pose]
    if look.pose in ("standing", "lying"):
        x = left
        while x < -0.3:
            foot = x + rng.uniform(-0.1, 0.2)
            line = [(x, -1.8), (x + 0.08, 0.4), (foot, rng.uniform(0.9, 1.3))]
            body.fill(frame, _ribbon(line, 0.17, 0.04), marks)
            x += rng.uniform(0.28, 0.4)
        return
    for side in (1, -1):
        y = 0.9
        while y < bottom:
            line = [(2.2, y - 0.2), (1.0, y), (rng.uniform(0.3, 0.5), y + 0.12)]
            body.fill(frame, _mirror(_ribbon(line, 0.18, 0.03), side), marks)
            y += rng.uniform(0.28, 0.4)


@dataclass(frozen=True)
class _Build:
    """What tells a cat's body from a dog's: limbs, tail, paws."""

    limb: float
    paw: float
    girth: float
    tail_up: Sequence[Point]
    tail_flat: Sequence[Point]
    tail_root: float
    tail_tip: float


def _cat_build(rng: random.Random) -> _Build:
    """Slender, with a long thin tail."""
    curl = rng.uniform(-0.5, 0.5)
    return _Build(
        limb=0.38,
        paw=0.25,
        girth=rng.uniform(0.9, 1.12),
        tail_up=((0, 0), (0.5, -0.1), (0.8, -0.9), (0.6 + curl, -1.6), (0.9 + curl, -2.0)),
        tail_flat=((0, 0), (0.6, 0.35), (1.0, 0.1), (1.1, -0.4 + curl)),
        tail_root=0.24,
        tail_tip=0.15,
    )


def _dog_build(rng: random.Random) -> _Build:
    """Sturdier, with a shorter tail that tapers."""
    wag = rng.uniform(-0.2, 0.3)
    return _Build(
        limb=0.48,
        paw=0.3,
        girth=rng.uniform(0.95, 1.2),
        tail_up=((0, 0), (0.45, -0.25), (0.65 + wag, -0.75), (0.55 + wag, -1.15)),
        tail_flat=((0, 0), (0.5, -0.05), (0.85, -0.3 + wag)),
        tail_root=0.4,
        tail_tip=0.12,
    )


def _paw(canvas: _Canvas, frame: _Frame, x: float, y: float, size: float, fur: _Fur) -> None:
    coat = fur.coat
    paint: Paint = coat.light if coat.white_bib else fur.body
    canvas.part(frame, _oval(x, y, size, size * 0.62), paint, coat.ink)
    for dx in (-0.33, 0.33):
        toe = [(x + dx * size, y), (x + dx * size, y + size * 0.5)]
        canvas.stroke(frame, toe, coat.ink, 0.03)


def _sitting(canvas: _Canvas, frame: _Frame, fur: _Fur, build: _Build) -> None:
    """Seen from the front: pear-shaped, front legs straight, tail to one side."""
    ink, g = fur.coat.ink, build.girth
    canvas.shadow(frame, _oval(0.1, 3.05, 1.5, 0.22), 0.35)
    tail = [(0.75 * g + x, 2.75 + y) for x, y in build.tail_up]
    canvas.part(frame, _ribbon(tail, build.tail_root, build.tail_tip), fur.body, ink)
    torso = _blob(
        (-0.5 * g, 0.4), (-0.75 * g, 1.3), (-1.0 * g, 2.3), (-0.85 * g, 2.95), (0, 3.0),
        (0.85 * g, 2.95), (1.0 * g, 2.3), (0.75 * g, 1.3), (0.5 * g, 0.4),
    )  # fmt: skip
    canvas.part(frame, _ruffled(torso, fur.coat.ruffle), fur.body, ink)
    if fur.coat.white_bib:
        bib = _blob((-0.42, 0.7), (-0.45, 1.3), (-0.2, 2.0), (0.2, 2.0), (0.45, 1.3), (0.42, 0.7))
        canvas.fill(frame, _ruffled(bib, 0.08), fur.coat.light)
    for side in (-1, 1):
        haunch = _oval(0.85 * g * side, 2.5, 0.42, 0.55, -0.25 * side)
        canvas.part(frame, haunch, fur.body, ink)
        _paw(canvas, frame, 0.95 * g * side, 2.98, build.paw, fur)
    for side in (-1, 1):
        leg = [(0.33 * side, 1.45), (0.34 * side, 2.2), (0.32 * side, 2.9)]
        canvas.part(frame, _ribbon(leg, build.limb * 1.1, build.limb), fur.body, ink)
        _paw(canvas, frame, 0.33 * side, 3.0, build.paw, fur)


def _lying(canvas: _Canvas, frame: _Frame, fur: _Fur, build: _Build) -> None:
    """The body rests behind the head, the front paws before it."""
    ink, g = fur.coat.ink, build.girth
    canvas.shadow(frame, _oval(-1.0, 1.5, 2.2, 0.25), 0.35)
    tail = [(-2.7 - x * 0.75, 1.2 + y * 0.8) for x, y in build.tail_flat]
    canvas.part(frame, _ribbon(tail, build.tail_root, build.tail_tip), fur.body, ink)
    torso = _blob(
        (0.6, 0.6), (0.2, 0.0), (-0.8, 0.15 - 0.25 * g), (-2.0, 0.15 - 0.2 * g), (-2.75, 0.6),
        (-2.85, 1.25), (-2.2, 1.5), (-0.8, 1.55), (0.5, 1.5),
    )  # fmt: skip
    canvas.part(frame, _ruffled(torso, fur.coat.ruffle), fur.body, ink)
    canvas.part(frame, _oval(-2.2, 1.0, 0.62, 0.5, -0.2), fur.body, ink)
    _paw(canvas, frame, -1.75, 1.48, build.paw * 1.1, fur)
    for x, y in ((0.55, 1.4), (-0.1, 1.5)):
        leg = [(x - 0.7, y - 0.15), (x - 0.2, y), (x + 0.2, y)]
        canvas.part(frame, _ribbon(leg, build.limb, build.limb * 0.9), fur.body, ink)
        _paw(canvas, frame, x + 0.3, y + 0.02, build.paw, fur)


def _standing(canvas: _Canvas, frame: _Frame, fur: _Fur, build: _Build) -> None:
    """Seen from the side, facing right."""
    ink, g = fur.coat.ink, build.girth
    canvas.shadow(frame, _oval(-1.7, 2.6, 2.0, 0.18), 0.35)
    tail = [(-3.05 - x * 0.85, 0.6 + y) for x, y in build.tail_up]
    canvas.part(frame, _ribbon(tail, build.tail_root, build.tail_tip), fur.body, ink)
    for x, paint in ((-0.75, fur.far), (-2.6, fur.far), (-1.05, fur.body), (-2.95, fur.body)):
        bend = -0.12 if x < -2 else 0.05
        leg = [(x + 0.1, 1.1), (x + bend, 1.8), (x + 0.02, 2.5)]
        canvas.part(frame, _ribbon(leg, build.limb * 1.3, build.limb * 0.8), paint, ink)
        _paw(canvas, frame, x + 0.1, 2.53, build.paw * 0.9, fur)
    torso = _blob(
        (0.0, 0.1), (-0.7, 0.25), (-1.9, 0.3), (-2.9, 0.3), (-3.3, 0.85), (-2.9, 1.2 + 0.25 * g),
        (-1.9, 1.1 + 0.2 * g), (-0.9, 1.2 + 0.3 * g), (-0.3, 1.1), (0.25, 0.6),
    )  # fmt: skip
    canvas.part(frame, _ruffled(torso, fur.coat.ruffle), fur.body, ink)
    if fur.coat.white_bib:
        belly = _blob((-0.35, 0.8), (-1.0, 1.2), (-2.6, 1.2), (-1.9, 1.05 + 0.2 * g), (-0.8, 1.4))
        canvas.fill(frame, belly, fur.coat.light)


def _bust(canvas: _Canvas, frame: _Frame, fur: _Fur, build: _Build) -> None:
    """Neck and shoulders below a close-up."""
    g = build.girth
    shoulders = _blob(
        (-0.55, 0.3), (-0.8 * g, 1.0), (-1.3 * g, 1.9), (-1.3, 3.5), (1.3, 3.5), (1.3 * g, 1.9),
        (0.8 * g, 1.0), (0.55, 0.3),
    )  # fmt: skip
    canvas.part(frame, _ruffled(shoulders, fur.coat.ruffle), fur.body, fur.coat.ink)
    if fur.coat.white_bib:
        bib = _blob((-0.5, 0.8), (-0.5, 1.6), (-0.3, 2.6), (0.3, 2.6), (0.5, 1.6), (0.5, 0.8))
        canvas.fill(frame, _ruffled(bib, 0.08), fur.coat.light)


_BODIES: Mapping[_Pose, Callable[[_Canvas, _Frame, _Fur, _Build], None]] = {
    "face": _bust,
    "sitting": _sitting,
    "lying": _lying,
    "standing": _standing,
}


def _collar(canvas: _Canvas, frame: _Frame, look: _Look) -> None:
    """A band round the neck with a tag."""
    if look.pose == "standing":
        band = [(-0.75, 0.35), (-0.35, 0.85), (0.25, 0.95)]
        tag = (0.05, 1.1)
    else:
        band = [(-0.62, 0.75), (0, 1.06), (0.62, 0.75)]
        tag = (0.0, 1.22)
    canvas.part(frame, _ribbon(band, 0.2, 0.2), look.collar, _mix(look.collar, _INK, 0.6))
    canvas.part(frame, _oval(*tag, 0.13, 0.14), (240, 200, 80), (120, 90, 30))


def _eye(canvas: _Canvas, frame: _Frame, x: float, y: float, iris: Colour, pupil: Point) -> None:
    """A cat's eye: almond, bright, with a slit of `pupil` half-width and half-height."""
    tilt = 0.22 if x > 0 else -0.22
    canvas.part(frame, _oval(x, y, 0.25, 0.2, -tilt), iris, _INK)
    canvas.fill(frame, _oval(x, y, *pupil), _INK)
    canvas.fill(frame, _oval(x - 0.07, y - 0.08, 0.05, 0.05), _WHITE)


_CAT_EYES: tuple[Colour, ...] = (
    (150, 190, 70),
    (226, 190, 60),
    (220, 140, 50),
    (110, 170, 210),
    (90, 160, 120),
)


def _cat_ears(canvas: _Canvas, head: _Frame, fur: _Fur, rng: random.Random, yaw: float) -> None:
    """Two pointed triangles, pink inside."""
    ink = fur.coat.ink
    tall, out = rng.uniform(0.85, 1.15), rng.uniform(-0.1, 0.22)
    for side in (-1, 1):
        tip = (0.72 + out + 0.1 * yaw * side, -0.55 - 0.9 * tall)
        ear = [(0.95, -0.2), (0.93 + out * 0.6, -0.75), tip, (0.45, -0.98), (0.12, -0.75)]
        canvas.part(head, _mirror(ear, side), fur.head, ink)
        x, y = tip
        inner = [(0.82, -0.5), (x - 0.02, y + 0.25), (0.36, -0.8)]
        canvas.fill(head, _mirror(inner, side), _mix(_PINK, fur.coat.base, 0.3))


def _cat_face(canvas: _Canvas, head: _Frame, fur: _Fur, yaw: float, rng: random.Random) -> None:
    """Seen from the front: wide cheeks, slit pupils, a small nose, whiskers."""
    coat, ink = fur.coat, fur.coat.ink
    _cat_ears(canvas, head, fur, rng, yaw)
    yaw *= 0.14
    skull = _blob(
        (0, -0.82), (0.55, -0.74), (0.93, -0.3), (1.03, 0.2), (0.72, 0.66), (0.3, 0.86), (0, 0.88),
        (-0.3, 0.86), (-0.72, 0.66), (-1.03, 0.2), (-0.93, -0.3), (-0.55, -0.74),
    )  # fmt: skip
    canvas.part(head, _ruffled(skull, coat.ruffle), fur.head, ink)
    if coat.pattern == "stripes":
        for x, tilt in ((-0.28, -0.1), (0, 0), (0.28, 0.1)):
            line = [(x + tilt + yaw, -0.8), (x + yaw, -0.42)]
            canvas.fill(head, _ribbon(line, 0.14, 0.05), coat.marks)
        for side in (-1, 1):
            for y in (0.08, 0.3):
                line = [(1.0, y), (0.62, y + 0.08)]
                canvas.fill(head, _mirror(_ribbon(line, 0.1, 0.03), side), coat.marks)
    face = head.moved(yaw, 0)
    for side in (-1, 1):
        canvas.fill(face, _oval(0.19 * side, 0.47, 0.27, 0.22), coat.light)
    canvas.fill(face, _oval(0, 0.7, 0.18, 0.13), coat.light)
    iris = rng.choice(_CAT_EYES)
    pupil = (rng.uniform(0.045, 0.1), 0.18)
    shut = rng.random() < 0.08
    for side in (-1, 1):
        if shut:
            lid = _spline([(0.2, -0.1), (0.42, 0.02), (0.66, -0.12)], closed=False)
            canvas.stroke(face, _mirror(lid, side), _INK, 0.06)
        else:
            _eye(canvas, face, 0.43 * side, -0.08, iris, pupil)
    nose = [(-0.13, 0.24), (0.13, 0.24), (0.05, 0.36), (-0.05, 0.36)]
    canvas.part(face, nose, _mix(_PINK, coat.marks, rng.choice((0, 0.5))), _INK)
    canvas.stroke(face, [(0, 0.36), (0, 0.46)], _INK)
    for side in (-1, 1):
        smile = _spline([(0, 0.46), (0.12, 0.56), (0.27, 0.5)], closed=False)
        canvas.stroke(face, _mirror(smile, side), _INK)
    _whiskers(canvas, face, rng, coat)


def _whiskers(canvas: _Canvas, face: _Frame, rng: random.Random, coat: _Coat) -> None:
    colour = _WHITE if sum(coat.base) < 500 else (80, 70, 70)
    droop = rng.uniform(-0.12, 0.2)
    for side in (-1, 1):
        for k in (-1, 0, 1):
            end = (1.35, 0.42 + k * 0.22 + droop)
            line = _spline([(0.3, 0.46 + k * 0.08), (0.8, 0.4 + k * 0.13), end], closed=False)
            canvas.stroke(face, _mirror(line, side), colour, 0.03)


def _cat_profile(canvas: _Canvas, head: _Frame, fur: _Fur, rng: random.Random) -> None:
    """Seen from the side, facing right: a short muzzle."""
    coat, ink = fur.coat, fur.coat.ink
    canvas.part(head, [(0.25, -0.6), (0.55, -1.35), (0.75, -0.45)], fur.far, ink)
    skull = _blob(
        (-0.75, 0.1), (-0.6, -0.55), (0, -0.85), (0.5, -0.68), (0.82, -0.2), (1.08, 0.1),
        (1.05, 0.42), (0.7, 0.6), (0.1, 0.72), (-0.5, 0.6),
    )  # fmt: skip
    canvas.part(head, _ruffled(skull, coat.ruffle), fur.head, ink)
    if coat.pattern == "stripes":
        for y in (-0.05, 0.2):
            canvas.fill(head, _ribbon([(-0.6, y), (-0.1, y + 0.1)], 0.12, 0.03), coat.marks)
    ear = [(-0.55, -0.5), (-0.32, -1.5), (0.22, -0.72)]
    canvas.part(head, ear, fur.head, ink)
    canvas.fill(head, [(-0.38, -0.62), (-0.27, -1.22), (0.08, -0.74)], _PINK)
    canvas.fill(head, _oval(0.8, 0.38, 0.26, 0.2), coat.light)
    canvas.part(head, _oval(0.5, -0.14, 0.17, 0.2, 0.2), rng.choice(_CAT_EYES), _INK)
    canvas.fill(head, _oval(0.55, -0.14, 0.05, 0.17), _INK)
    canvas.part(head, [(1.0, 0.0), (1.14, 0.1), (1.03, 0.2)], _PINK, _INK)
    canvas.stroke(head, _spline([(1.02, 0.22), (0.95, 0.42), (0.7, 0.42)], closed=False), _INK)
    colour = _WHITE if sum(coat.base) < 500 else (80, 70, 70)
    for k in (-1, 0, 1):
        line = _spline([(0.85, 0.35), (1.1, 0.4 + k * 0.12), (1.5, 0.5 + k * 0.25)], closed=False)
        canvas.stroke(head, line, colour, 0.03)


_EARS = ("hanging", "hanging", "hanging", "folded", "folded", "round")
_DOG_EYES: tuple[Colour, ...] = ((70, 42, 26), (50, 32, 24), (110, 70, 36), (110, 150, 180))


def _tongue(canvas: _Canvas, frame: _Frame, x: float, y: float, length: float) -> None:
    outline = _blob(
        (x - 0.16, y), (x - 0.17, y + length * 0.6), (x, y + length), (x + 0.17, y + length * 0.6),
        (x + 0.16, y),
    )  # fmt: skip
    canvas.part(frame, outline, _TONGUE, (130, 40, 56))
    canvas.stroke(frame, [(x, y + 0.04), (x, y + length * 0.6)], (180, 60, 80), 0.03)


def _dog_face(  # noqa: C901 - a face, from its ears to its smile
    canvas: _Canvas, head: _Frame, fur: _Fur, yaw: float, rng: random.Random
) -> None:
    """Seen from the front: a long snout with a big nose, ears that hang or round off."""
    coat, ink = fur.coat, fur.coat.ink
    yaw *= 0.16
    ears = rng.choice(_EARS)
    flap: Paint = coat.marks if coat.pattern != "plain" or rng.random() < 0.3 else fur.far
    droop, spread = rng.uniform(0.75, 1.15), rng.uniform(0, 0.2)
    if ears == "round":
        for side in (-1, 1):
            ear = _blob(
                (0.3, -0.7), (0.45, -1.15), (0.78 + spread, -1.3), (1.02 + spread, -1.1),
                (0.98, -0.7), (0.8, -0.3),
            )  # fmt: skip
            canvas.part(head, _mirror(ear, side), fur.head, ink)
            inner = _oval(0.72 + spread * 0.6, -0.9, 0.16, 0.26, 0.35)
            canvas.fill(head, _mirror(inner, side), _mix(_PINK, coat.base, 0.5))
    skull = _blob(
        (0, -0.92), (0.5, -0.86), (0.82, -0.45), (0.84, 0.05), (0.68, 0.5), (0.5, 0.85), (0, 1.05),
        (-0.5, 0.85), (-0.68, 0.5), (-0.84, 0.05), (-0.82, -0.45), (-0.5, -0.86),
    )  # fmt: skip
    canvas.part(head, _ruffled(skull, coat.ruffle), fur.head, ink)
    if coat.pattern == "stripes":
        for x, tilt in ((-0.26, -0.08), (0, 0), (0.26, 0.08)):
            line = [(x + tilt + yaw, -0.86), (x + yaw, -0.55)]
            canvas.fill(head, _ribbon(line, 0.14, 0.05), coat.marks)
    face = head.moved(yaw, 0)
    if coat.white_bib:
        blaze = _blob((0, -0.85), (0.14, -0.4), (0.22, 0.2), (-0.22, 0.2), (-0.14, -0.4))
        canvas.fill(face, blaze, coat.light)
    if rng.random() < 0.6:
        _tongue(canvas, face.moved(yaw * 0.6, 0), 0.0, 0.78, rng.uniform(0.3, 0.5))
    snout = _blob(
        (0, 0.0), (0.33, 0.12), (0.5, 0.48), (0.42, 0.82), (0.16, 0.86), (0, 0.8), (-0.16, 0.86),
        (-0.42, 0.82), (-0.5, 0.48), (-0.33, 0.12),
    )  # fmt: skip
    muzzle = face.moved(yaw * 0.6, 0)
    canvas.part(muzzle, snout, coat.light, _mix(coat.light, ink, 0.45))
    iris = rng.choice(_DOG_EYES)
    for side in (-1, 1):
        x, y = 0.4 * side, -0.2
        canvas.fill(face, _oval(x, y, 0.17, 0.19), _mix(coat.base, _WHITE, 0.5))
        canvas.part(face, _oval(x, y + 0.01, 0.14, 0.16), iris, _INK)
        canvas.fill(face, _oval(x, y + 0.02, 0.085, 0.1), (16, 12, 12))
        canvas.fill(face, _oval(x - 0.05, y - 0.05, 0.045, 0.045), _WHITE)
        brow = _spline([(0.22, -0.48), (0.4, -0.54), (0.56, -0.44)], closed=False)
        canvas.stroke(face, _mirror(brow, side), ink, 0.05)
    nose = _blob((-0.25, 0.18), (0, 0.1), (0.25, 0.18), (0.17, 0.36), (0, 0.42), (-0.17, 0.36))
    canvas.fill(muzzle, nose, (28, 22, 24))
    canvas.fill(muzzle, _oval(-0.07, 0.19, 0.07, 0.035), (130, 124, 128))
    canvas.stroke(muzzle, [(0, 0.4), (0, 0.62)], _INK)
    for side in (-1, 1):
        smile = _spline([(0, 0.62), (0.2, 0.74), (0.42, 0.6)], closed=False)
        canvas.stroke(muzzle, _mirror(smile, side), _INK, 0.05)
    if ears == "hanging":
        for side in (-1, 1):
            ear = _blob(
                (0.4, -0.84), (0.78, -0.82), (1.08 + spread, -0.35), (1.2 + spread, 0.3 * droop),
                (1.05 + spread, 0.75 * droop), (0.84, 0.6 * droop), (0.74, 0.0),
            )  # fmt: skip
            canvas.part(head, _mirror(ear, side), flap, ink)
    elif ears == "folded":
        for side in (-1, 1):
            ear = _blob(
                (0.3, -0.8), (0.6, -1.12), (0.98, -1.0), (1.22 + spread, -0.55), (1.1 + spread, -0.2),
                (0.85, -0.45),
            )  # fmt: skip
            canvas.part(head, _mirror(ear, side), flap, ink)


def _dog_profile(canvas: _Canvas, head: _Frame, fur: _Fur, rng: random.Random) -> None:
    """Seen from the side, facing right: the whole length of the snout."""
    coat, ink = fur.coat, fur.coat.ink
    reach = rng.uniform(0.9, 1.15)
    if rng.random() < 0.6:
        _tongue(canvas, head, 0.85 * reach, 0.45, rng.uniform(0.35, 0.6))
    skull = _blob(
        (-0.7, 0.1), (-0.6, -0.5), (-0.1, -0.8), (0.4, -0.66), (0.62, -0.28), (1.1 * reach, -0.14),
        (1.42 * reach, 0.02), (1.42 * reach, 0.34), (1.0, 0.54), (0.4, 0.62), (-0.1, 0.8),
        (-0.5, 0.7),
    )  # fmt: skip
    canvas.part(head, _ruffled(skull, coat.ruffle), fur.head, ink)
    jaw = _blob(
        (0.7, 0.05), (1.1 * reach, -0.04), (1.38 * reach, 0.1), (1.36 * reach, 0.32), (0.95, 0.46),
        (0.6, 0.4),
    )  # fmt: skip
    canvas.fill(head, jaw, coat.light)
    mouth = _spline([(1.36 * reach, 0.26), (1.0, 0.34), (0.55, 0.28)], closed=False)
    canvas.stroke(head, mouth, _INK, 0.05)
    canvas.fill(head, _oval(1.4 * reach, 0.0, 0.17, 0.14), (28, 22, 24))
    canvas.fill(head, _oval(1.37 * reach, -0.05, 0.05, 0.03), (130, 124, 128))
    canvas.part(head, _oval(0.35, -0.24, 0.12, 0.14), rng.choice(_DOG_EYES), _INK)
    canvas.fill(head, _oval(0.32, -0.28, 0.04, 0.04), _WHITE)
    if coat.pattern == "stripes":
        for y in (-0.6, -0.45):
            canvas.fill(head, _ribbon([(-0.1, y), (0.2, y + 0.05)], 0.08, 0.04), coat.marks)
    ears = rng.choice(_EARS)
    flap: Paint = coat.marks if coat.pattern != "plain" else fur.far
    if ears == "hanging":
        ear = _blob(
            (-0.55, -0.5), (-0.1, -0.62), (0.08, -0.2), (0.05, 0.45), (-0.22, 0.72), (-0.48, 0.4)
        )
        canvas.part(head, ear, flap, ink)
    elif ears == "folded":
        ear = _blob((-0.5, -0.55), (-0.3, -1.02), (0.05, -0.95), (0.3, -0.42), (0.0, -0.5))
        canvas.part(head, ear, flap, ink)
    else:
        ear = _blob((-0.5, -0.5), (-0.55, -1.0), (-0.3, -1.22), (-0.05, -1.0), (0.05, -0.6))
        canvas.part(head, ear, fur.head, ink)
        canvas.fill(head, _oval(-0.28, -0.88, 0.12, 0.2), _mix(_PINK, coat.base, 0.5))


# --- pictures ---


@cache
def _grain() -> Image.Image:
    """One tile of grey noise around 128, cut anew for every picture."""
    noise = np.random.default_rng(0).normal(128, 40, (640, 640))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _developed(image: Image.Image, look: _Look, rng: random.Random) -> Image.Image:
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


def _drawn(label: Label, seed: int) -> tuple[Image.Image, _Look]:
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    look = _Look.drawn_from(rng)
    enlarged = min(2.0, _LONGEST_CANVAS / max(look.width, look.height))
    width, height = round(look.width * enlarged), round(look.height * enlarged)
    canvas = _Canvas(_BACKDROPS[look.backdrop]((width, height), rng))

    left, top, right, bottom = _REACH[look.pose]
    unit = look.zoom * min(width / (right - left), height / (bottom - top))
    spare_x, spare_y = width - (right - left) * unit, height - (bottom - top) * unit
    x = spare_x / 2 + look.shift[0] * max(spare_x, 0) * 0.45 - left * unit
    y = spare_y / 2 + look.shift[1] * max(spare_y, 0) * 0.45 - top * unit
    frame = _Frame(x if look.side == 1 else width - x, y, unit, look.lean, look.side)
    fur = _fur((width, height), frame, look, rng)
    collar = rng.random()
    film = random.Random(rng.random())  # noqa: S311 - apart: anatomy draws as much as it likes

    cat = label == "cat"
    build = _cat_build(rng) if cat else _dog_build(rng)
    _BODIES[look.pose](canvas, frame, fur, build)
    if collar < (0.3 if cat else 0.7):
        _collar(canvas, frame, look)
    head = frame.moved(0, 0, turn=look.head_turn)
    if look.pose == "standing" and look.profile:
        (_cat_profile if cat else _dog_profile)(canvas, head, fur, rng)
    else:
        (_cat_face if cat else _dog_face)(canvas, head, fur, look.yaw, rng)
    small = canvas.image.resize((look.width, look.height), Image.Resampling.BILINEAR)
    return _developed(small, look, film), look


def draw(label: Label, seed: int) -> Image.Image:
    """A picture of a cat or a dog, RGB, 80 to 400 pixels a side; the same for the same seed."""
    return _drawn(label, seed)[0]


def draw_jpeg(label: Label, seed: int) -> bytes:
    """The picture of `draw` as a JPEG, of a quality that the seed decides."""
    image, look = _drawn(label, seed)
    return _encoded(image, "JPEG", quality=look.quality)


def _encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


# --- data sets and archives ---


def _seed(purpose: str, seed: int, number: int) -> int:
    """A seed for one picture: unseen pictures share none with the training set."""
    digest = hashlib.blake2b(f"{purpose} {seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def write_dataset(folder: Path, count: int, seed: int) -> None:
    """Write `count` drawings, half of them cats: `cat/cat.0.jpg`, `dog/dog.0.jpg`, and so on."""
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        label = LABELS[number % 2]
        path = folder / label / f"{label}.{number // 2}.jpg"
        path.write_bytes(draw_jpeg(label, _seed("training", seed, number)))


@dataclass(frozen=True)
class Archives:
    """Two archives of drawings with broken files among them; the label is the first folder.

    Attributes:
        tar: path of the first archive.
        zip: path of the second.
        good: how many pictures the two hold that can be read.
        broken: how many files the two hold that cannot, by the reason.
    """

    tar: Path
    zip: Path
    good: int
    broken: Mapping[ErrorCode, int]


def write_archives(folder: Path, count: int, seed: int) -> Archives:
    """Pack `count` drawings, none of them in any `write_dataset`, into a tar and a zip.

    Each archive has its broken files in excess of `count`, and among its good ones a few that are
    odd: grey, CMYK, palette, rotated by EXIF, transparent WebP. Folders are nested, and base names
    recur from folder to folder. Same arguments, same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archives = Archives(
        tar=folder / "unseen.tar",
        zip=folder / "unseen.zip",
        good=count,
        broken=dict(Counter(reason for _, reason, _ in _BROKEN * 2)),
    )
    half = (count + 1) // 2
    with tarfile.open(archives.tar, "w") as tar:
        for name, data in _members(range(half), seed):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(archives.zip, "w") as packed:
        for name, data in _members(range(half, count), seed):
            packed.writestr(zipfile.ZipInfo(name), data)
    return archives


def _members(numbers: Sequence[int], seed: int) -> list[tuple[str, bytes]]:
    """Names and bytes of one archive's files, good and broken ones shuffled."""
    members = []
    taken: Counter[str] = Counter()
    for place, number in enumerate(numbers):
        label = LABELS[number % 2]
        image, look = _drawn(label, _seed("unseen", seed, number))
        if place < len(_ODD):
            name, encoded = _ODD[place]
            members.append((f"{label}/odd/{name}", encoded(image)))
            continue
        folder = f"{label}/{look.backdrop}"
        name = f"{folder}/{label}.{taken[folder]}.jpg"
        taken[folder] += 1
        members.append((name, _encoded(image, "JPEG", quality=look.quality)))
    whole = draw("dog", _seed("broken", seed, 0))
    members += [(name, broken(whole)) for name, _, broken in _BROKEN]
    random.Random(seed).shuffle(members)  # noqa: S311 - an order, not a secret
    return members


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter before it is shown
    lying = image.transpose(Image.Transpose.ROTATE_90)
    return _encoded(lying, "JPEG", quality=85, exif=exif)


def _transparent(image: Image.Image) -> bytes:
    mask = Image.new("L", image.size)
    box = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, min(image.size) // 4, fill=255)
    image = image.copy()
    image.putalpha(mask)
    return _encoded(image, "WEBP", quality=85)


def _enormous_png(_: Image.Image) -> bytes:
    """A PNG of a hundred bytes whose header claims 3.6 billion pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def _first_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


_Encode = Callable[[Image.Image], bytes]
_ODD: tuple[tuple[str, _Encode], ...] = (
    ("grey.jpg", lambda image: _encoded(image.convert("L"), "JPEG", quality=85)),
    ("cmyk.jpg", lambda image: _encoded(image.convert("CMYK"), "JPEG", quality=85)),
    ("palette.png", lambda image: _encoded(image.quantize(64), "PNG")),
    ("rotated.jpg", _rotated),
    ("transparent.webp", _transparent),
)
_BROKEN: tuple[tuple[str, ErrorCode, _Encode], ...] = (
    ("cat/broken/cut.jpg", ErrorCode.TRUNCATED, lambda i: _first_half(_encoded(i, "JPEG"))),
    ("dog/broken/cut.png", ErrorCode.TRUNCATED, lambda i: _first_half(_encoded(i, "PNG"))),
    ("cat/broken/empty.jpg", ErrorCode.EMPTY, lambda _: b""),
    ("dog/broken/text.jpg", ErrorCode.NOT_AN_IMAGE, lambda _: b"The dog ate this picture.\n" * 20),
    ("cat/broken/enormous.png", ErrorCode.TOO_LARGE, _enormous_png),
)
