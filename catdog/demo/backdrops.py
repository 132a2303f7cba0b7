"""What stands behind the animal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter

from catdog.demo.shapes import INK, WHITE, Colour, Frame, mix, oval

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping


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
            corners.putpixel((x, y), mix(base, other, 0.5))
    return corners.resize(size, Image.Resampling.BILINEAR)


def _meadow(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Sky, clouds, hills, grass and flowers."""
    width, height = size
    sky = rng.choice(((112, 176, 232), (160, 200, 230), (236, 190, 150), (190, 200, 210)))
    image = _gradient(size, sky, mix(sky, WHITE, 0.7))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 3)):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.3 * height)
        for _ in range(4):
            r = rng.uniform(0.03, 0.07) * width
            pen.ellipse((x - r * 1.6, y - r, x + r * 1.6, y + r), fill=mix(sky, WHITE, 0.85))
            x += r
    horizon = rng.uniform(0.35, 0.7) * height
    for _ in range(2):
        x, r = rng.uniform(0, width), rng.uniform(0.4, 0.9) * width
        hill = mix((96, 150, 96), sky, rng.uniform(0.1, 0.6))
        lift = rng.uniform(0.05, 0.2) * height
        pen.ellipse((x - r, horizon - lift, x + r, horizon + r), fill=hill)
    grass = mix((92, 150, 60), (170, 170, 80), rng.random())
    lawn = _gradient((width, height - int(horizon)), grass, mix(grass, (20, 50, 20), 0.4))
    image.paste(lawn, (0, int(horizon)))
    for _ in range(70):
        x, y = rng.uniform(0, width), rng.uniform(horizon, height)
        tip = rng.uniform(4, 12)
        shade = mix(grass, rng.choice(((30, 70, 20), (220, 230, 140))), rng.uniform(0.2, 0.5))
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
    image = _gradient(size, mix(colour, WHITE, 0.2), mix(colour, INK, 0.12))
    pen = ImageDraw.Draw(image)
    paper = rng.choice(("plain", "stripes", "dots"))
    shade = mix(colour, rng.choice((WHITE, INK)), 0.18)
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
    dark, lit = mix(cloth, INK, 0.25), mix(cloth, WHITE, 0.12)
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
    pen.rectangle(box, fill=pane, outline=mix(wood, WHITE, 0.5), width=5)
    if rng.random() < 0.5:
        middle = (box[0] + box[2]) / 2
        pen.line((middle, box[1], middle, box[3]), fill=mix(wood, WHITE, 0.5), width=4)
    image.paste(_gradient((width, height - int(floor)), wood, mix(wood, INK, 0.3)), (0, int(floor)))
    vanish = rng.uniform(0.2, 0.8) * width
    for k in range(-8, 17):
        foot = vanish + (k / 8 * width - vanish) * 2
        pen.line((k / 8 * width, floor, foot, height), fill=mix(wood, INK, 0.35), width=2)
    if rng.random() < 0.4:
        x, r = rng.choice((rng.uniform(0, 0.2), rng.uniform(0.8, 1))) * width, 0.06 * width
        for _ in range(7):
            leaf = Frame(x, floor - r, 0.3 * height, rng.uniform(-0.8, 0.8))
            green = mix((40, 110, 60), (120, 170, 80), rng.random())
            pen.polygon(leaf.pixels(oval(0, -0.4, 0.1, 0.45)), fill=green)
        pot = [(x - r, floor - r), (x + r, floor - r), (x + r * 0.7, floor + r)]
        pen.polygon([*pot, (x - r * 0.7, floor + r)], fill=(186, 96, 64))
    if rng.random() < 0.4:
        x, y, r = rng.uniform(0, width), rng.uniform(floor, height), rng.uniform(0.03, 0.07) * width
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_hue(rng, 0.7, 0.95), outline=INK, width=2)
    return image


def _beach(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Sky, sun, sea, sand."""
    width, height = size
    sky = rng.choice(((120, 190, 240), (250, 190, 140), (200, 210, 225)))
    image = _gradient(size, sky, mix(sky, WHITE, 0.6))
    pen = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0, width), rng.uniform(0, 0.3) * height, 0.07 * width
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 240, 180))
    sea, shore = rng.uniform(0.3, 0.5) * height, rng.uniform(0.55, 0.75) * height
    water = mix((40, 120, 170), sky, rng.uniform(0, 0.4))
    image.paste(_gradient((width, height - int(sea)), mix(water, WHITE, 0.3), water), (0, int(sea)))
    for _ in range(10):
        x, y = rng.uniform(0, width), rng.uniform(sea, shore)
        pen.line((x, y, x + 0.1 * width, y), fill=mix(water, WHITE, 0.5), width=2)
    sand = mix((232, 206, 150), (200, 180, 150), rng.random())
    edge = [(k / 8 * width, shore + rng.uniform(-0.03, 0.03) * height) for k in range(9)]
    pen.polygon([*edge, (width, height), (0, height)], fill=sand)
    for _ in range(60):
        x, y = rng.uniform(0, width), rng.uniform(shore + 0.03 * height, height)
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=mix(sand, INK, rng.uniform(0.1, 0.3)))
    return image


def _night(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Moon, stars, roofs with lit windows."""
    width, height = size
    dark = mix((24, 28, 64), (60, 40, 80), rng.random())
    image = _gradient(size, dark, mix(dark, (230, 150, 140), rng.uniform(0.1, 0.5)))
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, r = rng.uniform(0, width), rng.uniform(0, 0.7 * height), rng.uniform(0.6, 2)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 220))
    x, y, r = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.3) * height, 0.09 * width
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 244, 210))
    x = rng.uniform(-0.2, 0) * width
    while x < width:
        wide, top = rng.uniform(0.15, 0.3) * width, rng.uniform(0.5, 0.8) * height
        house = mix(dark, (90, 70, 90), rng.uniform(0.2, 0.8))
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
    base = mix((50, 90, 50), _hue(rng, 0.6, 0.8), rng.uniform(0, 0.8))
    image = _gradient(small, mix(base, WHITE, 0.3), mix(base, INK, 0.3))
    pen = ImageDraw.Draw(image)
    for _ in range(28):
        x, y, r = rng.uniform(0, small[0]), rng.uniform(0, small[1]), rng.uniform(2, 14)
        tint = mix(base, rng.choice((WHITE, INK, _hue(rng, 0.7, 0.9))), rng.uniform(0.1, 0.5))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tint)
    blurred = image.filter(ImageFilter.BoxBlur(rng.uniform(1, 4)))
    return blurred.resize(size, Image.Resampling.BILINEAR)


def _blanket(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A checked, woven blanket."""
    width, height = size
    base = _hue(rng, rng.uniform(0.2, 0.7), rng.uniform(0.5, 0.95))
    rows, columns = rng.randint(4, 12), rng.randint(4, 12)
    other = mix(base, _hue(rng, 0.6, 0.9), rng.uniform(0.2, 0.7))
    checks = Image.new("RGB", (columns, rows), base)
    for column in range(columns):
        for row in range(rows):
            share = (0.5 * (column % 2) + 0.5 * (row % 2)) * 0.8 + rng.uniform(0, 0.2)
            checks.putpixel((column, row), mix(base, other, share))
    soft = rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR))
    image = checks.resize(size, soft)
    turn = rng.uniform(-0.2, 0.2)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x = rng.uniform(0, width)
        fold = (x, 0, x + turn * height, height)
        pen.line(fold, fill=mix(base, INK, 0.25), width=rng.randint(2, 6))
    return image


BACKDROPS: Mapping[str, Callable[[tuple[int, int], random.Random], Image.Image]] = {
    "studio": _studio,
    "meadow": _meadow,
    "sofa": _sofa,
    "room": _room,
    "beach": _beach,
    "night": _night,
    "garden": _garden,
    "blanket": _blanket,
}
