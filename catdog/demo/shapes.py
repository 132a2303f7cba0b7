"""Outlines, colours, and the canvas that they are drawn on.

Coordinates: a figure is drawn in a frame whose origin is the middle of the head and whose unit is
half the head's width; y points down. The frame maps them to pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, float]
Colour = tuple[int, int, int]
Paint = Colour | Image.Image

INK: Colour = (34, 26, 26)
WHITE: Colour = (250, 247, 240)
PINK: Colour = (232, 150, 150)
TONGUE: Colour = (226, 98, 112)


_CIRCLE = [(math.cos(a * math.tau / 28), math.sin(a * math.tau / 28)) for a in range(28)]


def oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[Point]:
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


def spline(points: Sequence[Point], *, closed: bool) -> list[Point]:
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


def blob(*points: Point) -> list[Point]:
    """A closed curve through the points."""
    return spline(points, closed=True)


def ribbon(points: Sequence[Point], start: float, end: float) -> list[Point]:
    """A limb or tail along the points, `start` wide at its root and `end` at its rounded tip."""
    middle = spline(points, closed=False)
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


def ruffled(outline: list[Point], depth: float) -> list[Point]:
    """The outline with every other point pulled towards the middle: tousled fur."""
    if not depth:
        return outline
    x = sum(p[0] for p in outline) / len(outline)
    y = sum(p[1] for p in outline) / len(outline)
    return [
        (x + (px - x) * (1 - depth * (i % 2)), y + (py - y) * (1 - depth * (i % 2)))
        for i, (px, py) in enumerate(outline)
    ]


def mirror(outline: Sequence[Point], side: int) -> list[Point]:
    """The outline as it is for side 1, flipped left to right for side -1."""
    return [(x * side, y) for x, y in outline]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b, the rest of a."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


@dataclass(frozen=True)
class Frame:
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

    def moved(self, x: float, y: float, *, scale: float = 1.0, turn: float = 0.0) -> Frame:
        """The frame around a point of this one."""
        ((px, py),) = self.pixels([(x, y)])
        return Frame(px, py, self.unit * scale, self.turn + turn, self.side)


class Canvas:
    """Fills and strokes outlines of one frame after the other on an RGB picture."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)

    def fill(self, frame: Frame, outline: Sequence[Point], paint: Paint) -> None:
        """A filled outline without a contour."""
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
        self, frame: Frame, points: Sequence[Point], colour: Colour, width: float = 0.04
    ) -> None:
        """A line of `width` units through the points."""
        self._draw.line(frame.pixels(points), fill=colour, width=max(1, round(width * frame.unit)))

    def part(self, frame: Frame, outline: Sequence[Point], paint: Paint, ink: Colour) -> None:
        """A filled outline with a drawn contour."""
        pixels = frame.pixels(outline)
        self._fill(pixels, paint)
        width = max(1, round(0.04 * frame.unit))
        self._draw.line([*pixels, pixels[0]], fill=ink, width=width)

    def shadow(self, frame: Frame, outline: Sequence[Point], strength: float) -> None:
        """Darken what lies under the outline by `strength`, 0 to 1."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(frame.pixels(outline), fill=round(255 * strength))
        self.image.paste((12, 10, 20), None, mask)
