"""Coats, bodies and faces of cats and dogs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from catdog.demo.looks import Coat, Look, Pose
from catdog.demo.shapes import (
    INK,
    PINK,
    TONGUE,
    WHITE,
    Canvas,
    Colour,
    Frame,
    Paint,
    Point,
    blob,
    mirror,
    mix,
    oval,
    ribbon,
    ruffled,
    spline,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

# How far a figure reaches from the middle of its head: left, top, right, bottom.
REACH: Mapping[Pose, tuple[float, float, float, float]] = {
    "face": (-1.3, -1.5, 1.3, 1.5),
    "sitting": (-1.7, -1.5, 1.9, 3.2),
    "lying": (-3.3, -1.5, 1.45, 1.75),
    "standing": (-3.9, -1.6, 1.7, 2.75),
}


class _Fur:
    """The coat as pictures of the canvas's size, one for the body and one for the head."""

    def __init__(self, body: Image.Image, head: Image.Image, coat: Coat) -> None:
        self.body = body
        self.head = head
        self.coat = coat

    @cached_property
    def far(self) -> Image.Image:
        """The body's fur on the side away from the viewer, darker."""
        return self.body.point([k * 4 // 5 for k in range(256)] * 3)


def paint_fur(size: tuple[int, int], frame: Frame, look: Look, rng: random.Random) -> _Fur:
    """Lay the pattern where the figure will stand; the parts cut their shapes out of it."""
    coat = look.coat
    left, _, right, bottom = REACH[look.pose]
    body = Canvas(Image.new("RGB", size, coat.base))
    head = Canvas(Image.new("RGB", size, coat.base))
    if coat.pattern == "stripes":
        _stripe(body, frame, look, rng)
    elif coat.pattern == "patches":
        for _ in range(6):
            x, y = rng.uniform(left, right), rng.uniform(0.5, bottom)
            blot = oval(x, y, rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.5), rng.uniform(0, 3))
            body.fill(frame, ruffled(blot, 0.12), coat.marks)
        x = rng.choice((-0.55, 0.55))
        head.fill(frame, oval(x, -0.3, 0.55, rng.uniform(0.5, 0.9), 0.3 * x), coat.marks)
    elif coat.pattern == "spots":
        for _ in range(46):
            x, y = rng.uniform(left, right), rng.uniform(0.6, bottom)
            r = rng.uniform(0.05, 0.13)
            body.fill(frame, oval(x, y, r, r), coat.marks)
        for _ in range(9):
            x, y, r = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, -0.35), rng.uniform(0.04, 0.09)
            head.fill(frame, oval(x, y, r, r), coat.marks)
    # The underside lies in the animal's own shadow.
    column = Image.linear_gradient("L").resize((1, size[1]))
    shade = column.point([k * 2 // 5 for k in range(256)]).resize(size, Image.Resampling.NEAREST)
    dusk = mix(coat.base, (30, 20, 50), 0.6)
    body.image.paste(dusk, None, shade)
    if coat.pattern == "plain":
        return _Fur(body.image, body.image, coat)
    head.image.paste(dusk, None, shade)
    return _Fur(body.image, head.image, coat)


def _stripe(body: Canvas, frame: Frame, look: Look, rng: random.Random) -> None:
    """Tabby stripes: across the back of a figure seen from the side, else in from both sides."""
    marks = look.coat.marks
    left, _, _, bottom = REACH[look.pose]
    if look.pose in ("standing", "lying"):
        x = left
        while x < -0.3:
            foot = x + rng.uniform(-0.1, 0.2)
            line = [(x, -1.8), (x + 0.08, 0.4), (foot, rng.uniform(0.9, 1.3))]
            body.fill(frame, ribbon(line, 0.17, 0.04), marks)
            x += rng.uniform(0.28, 0.4)
        return
    for side in (1, -1):
        y = 0.9
        while y < bottom:
            line = [(2.2, y - 0.2), (1.0, y), (rng.uniform(0.3, 0.5), y + 0.12)]
            body.fill(frame, mirror(ribbon(line, 0.18, 0.03), side), marks)
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


def cat_build(rng: random.Random) -> _Build:
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


def dog_build(rng: random.Random) -> _Build:
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


def _paw(canvas: Canvas, frame: Frame, x: float, y: float, size: float, fur: _Fur) -> None:
    coat = fur.coat
    paint: Paint = coat.light if coat.white_bib else fur.body
    canvas.part(frame, oval(x, y, size, size * 0.62), paint, coat.ink)
    for dx in (-0.33, 0.33):
        toe = [(x + dx * size, y), (x + dx * size, y + size * 0.5)]
        canvas.stroke(frame, toe, coat.ink, 0.03)


def _sitting(canvas: Canvas, frame: Frame, fur: _Fur, build: _Build) -> None:
    """Seen from the front: pear-shaped, front legs straight, tail to one side."""
    ink, g = fur.coat.ink, build.girth
    canvas.shadow(frame, oval(0.1, 3.05, 1.5, 0.22), 0.35)
    tail = [(0.75 * g + x, 2.75 + y) for x, y in build.tail_up]
    canvas.part(frame, ribbon(tail, build.tail_root, build.tail_tip), fur.body, ink)
    torso = blob(
        (-0.5 * g, 0.4), (-0.75 * g, 1.3), (-1.0 * g, 2.3), (-0.85 * g, 2.95), (0, 3.0),
        (0.85 * g, 2.95), (1.0 * g, 2.3), (0.75 * g, 1.3), (0.5 * g, 0.4),
    )  # fmt: skip
    canvas.part(frame, ruffled(torso, fur.coat.ruffle), fur.body, ink)
    if fur.coat.white_bib:
        bib = blob((-0.42, 0.7), (-0.45, 1.3), (-0.2, 2.0), (0.2, 2.0), (0.45, 1.3), (0.42, 0.7))
        canvas.fill(frame, ruffled(bib, 0.08), fur.coat.light)
    for side in (-1, 1):
        haunch = oval(0.85 * g * side, 2.5, 0.42, 0.55, -0.25 * side)
        canvas.part(frame, haunch, fur.body, ink)
        _paw(canvas, frame, 0.95 * g * side, 2.98, build.paw, fur)
    for side in (-1, 1):
        leg = [(0.33 * side, 1.45), (0.34 * side, 2.2), (0.32 * side, 2.9)]
        canvas.part(frame, ribbon(leg, build.limb * 1.1, build.limb), fur.body, ink)
        _paw(canvas, frame, 0.33 * side, 3.0, build.paw, fur)


def _lying(canvas: Canvas, frame: Frame, fur: _Fur, build: _Build) -> None:
    """The body rests behind the head, the front paws before it."""
    ink, g = fur.coat.ink, build.girth
    canvas.shadow(frame, oval(-1.0, 1.5, 2.2, 0.25), 0.35)
    tail = [(-2.7 - x * 0.75, 1.2 + y * 0.8) for x, y in build.tail_flat]
    canvas.part(frame, ribbon(tail, build.tail_root, build.tail_tip), fur.body, ink)
    torso = blob(
        (0.6, 0.6), (0.2, 0.0), (-0.8, 0.15 - 0.25 * g), (-2.0, 0.15 - 0.2 * g), (-2.75, 0.6),
        (-2.85, 1.25), (-2.2, 1.5), (-0.8, 1.55), (0.5, 1.5),
    )  # fmt: skip
    canvas.part(frame, ruffled(torso, fur.coat.ruffle), fur.body, ink)
    canvas.part(frame, oval(-2.2, 1.0, 0.62, 0.5, -0.2), fur.body, ink)
    _paw(canvas, frame, -1.75, 1.48, build.paw * 1.1, fur)
    for x, y in ((0.55, 1.4), (-0.1, 1.5)):
        leg = [(x - 0.7, y - 0.15), (x - 0.2, y), (x + 0.2, y)]
        canvas.part(frame, ribbon(leg, build.limb, build.limb * 0.9), fur.body, ink)
        _paw(canvas, frame, x + 0.3, y + 0.02, build.paw, fur)


def _standing(canvas: Canvas, frame: Frame, fur: _Fur, build: _Build) -> None:
    """Seen from the side, facing right."""
    ink, g = fur.coat.ink, build.girth
    canvas.shadow(frame, oval(-1.7, 2.6, 2.0, 0.18), 0.35)
    tail = [(-3.05 - x * 0.85, 0.6 + y) for x, y in build.tail_up]
    canvas.part(frame, ribbon(tail, build.tail_root, build.tail_tip), fur.body, ink)
    for x, paint in ((-0.75, fur.far), (-2.6, fur.far), (-1.05, fur.body), (-2.95, fur.body)):
        bend = -0.12 if x < -2 else 0.05
        leg = [(x + 0.1, 1.1), (x + bend, 1.8), (x + 0.02, 2.5)]
        canvas.part(frame, ribbon(leg, build.limb * 1.3, build.limb * 0.8), paint, ink)
        _paw(canvas, frame, x + 0.1, 2.53, build.paw * 0.9, fur)
    torso = blob(
        (0.0, 0.1), (-0.7, 0.25), (-1.9, 0.3), (-2.9, 0.3), (-3.3, 0.85), (-2.9, 1.2 + 0.25 * g),
        (-1.9, 1.1 + 0.2 * g), (-0.9, 1.2 + 0.3 * g), (-0.3, 1.1), (0.25, 0.6),
    )  # fmt: skip
    canvas.part(frame, ruffled(torso, fur.coat.ruffle), fur.body, ink)
    if fur.coat.white_bib:
        belly = blob((-0.35, 0.8), (-1.0, 1.2), (-2.6, 1.2), (-1.9, 1.05 + 0.2 * g), (-0.8, 1.4))
        canvas.fill(frame, belly, fur.coat.light)


def _bust(canvas: Canvas, frame: Frame, fur: _Fur, build: _Build) -> None:
    """Neck and shoulders below a close-up."""
    g = build.girth
    shoulders = blob(
        (-0.55, 0.3), (-0.8 * g, 1.0), (-1.3 * g, 1.9), (-1.3, 3.5), (1.3, 3.5), (1.3 * g, 1.9),
        (0.8 * g, 1.0), (0.55, 0.3),
    )  # fmt: skip
    canvas.part(frame, ruffled(shoulders, fur.coat.ruffle), fur.body, fur.coat.ink)
    if fur.coat.white_bib:
        bib = blob((-0.5, 0.8), (-0.5, 1.6), (-0.3, 2.6), (0.3, 2.6), (0.5, 1.6), (0.5, 0.8))
        canvas.fill(frame, ruffled(bib, 0.08), fur.coat.light)


BODIES: Mapping[Pose, Callable[[Canvas, Frame, _Fur, _Build], None]] = {
    "face": _bust,
    "sitting": _sitting,
    "lying": _lying,
    "standing": _standing,
}


def draw_collar(canvas: Canvas, frame: Frame, look: Look) -> None:
    """A band round the neck with a tag."""
    if look.pose == "standing":
        band = [(-0.75, 0.35), (-0.35, 0.85), (0.25, 0.95)]
        tag = (0.05, 1.1)
    else:
        band = [(-0.62, 0.75), (0, 1.06), (0.62, 0.75)]
        tag = (0.0, 1.22)
    canvas.part(frame, ribbon(band, 0.2, 0.2), look.collar, mix(look.collar, INK, 0.6))
    canvas.part(frame, oval(*tag, 0.13, 0.14), (240, 200, 80), (120, 90, 30))


def _eye(canvas: Canvas, frame: Frame, x: float, y: float, iris: Colour, pupil: Point) -> None:
    """A cat's eye: almond, bright, with a slit of `pupil` half-width and half-height."""
    tilt = 0.22 if x > 0 else -0.22
    canvas.part(frame, oval(x, y, 0.25, 0.2, -tilt), iris, INK)
    canvas.fill(frame, oval(x, y, *pupil), INK)
    canvas.fill(frame, oval(x - 0.07, y - 0.08, 0.05, 0.05), WHITE)


_CAT_EYES: tuple[Colour, ...] = (
    (150, 190, 70),
    (226, 190, 60),
    (220, 140, 50),
    (110, 170, 210),
    (90, 160, 120),
)


def _cat_ears(canvas: Canvas, head: Frame, fur: _Fur, rng: random.Random, yaw: float) -> None:
    """Two pointed triangles, pink inside."""
    ink = fur.coat.ink
    tall, out = rng.uniform(0.85, 1.15), rng.uniform(-0.1, 0.22)
    for side in (-1, 1):
        tip = (0.72 + out + 0.1 * yaw * side, -0.55 - 0.9 * tall)
        ear = [(0.95, -0.2), (0.93 + out * 0.6, -0.75), tip, (0.45, -0.98), (0.12, -0.75)]
        canvas.part(head, mirror(ear, side), fur.head, ink)
        x, y = tip
        inner = [(0.82, -0.5), (x - 0.02, y + 0.25), (0.36, -0.8)]
        canvas.fill(head, mirror(inner, side), mix(PINK, fur.coat.base, 0.3))


def cat_face(canvas: Canvas, head: Frame, fur: _Fur, yaw: float, rng: random.Random) -> None:
    """Seen from the front: wide cheeks, slit pupils, a small nose, whiskers."""
    coat, ink = fur.coat, fur.coat.ink
    _cat_ears(canvas, head, fur, rng, yaw)
    yaw *= 0.14
    skull = blob(
        (0, -0.82), (0.55, -0.74), (0.93, -0.3), (1.03, 0.2), (0.72, 0.66), (0.3, 0.86), (0, 0.88),
        (-0.3, 0.86), (-0.72, 0.66), (-1.03, 0.2), (-0.93, -0.3), (-0.55, -0.74),
    )  # fmt: skip
    canvas.part(head, ruffled(skull, coat.ruffle), fur.head, ink)
    if coat.pattern == "stripes":
        for x, tilt in ((-0.28, -0.1), (0, 0), (0.28, 0.1)):
            line = [(x + tilt + yaw, -0.8), (x + yaw, -0.42)]
            canvas.fill(head, ribbon(line, 0.14, 0.05), coat.marks)
        for side in (-1, 1):
            for y in (0.08, 0.3):
                line = [(1.0, y), (0.62, y + 0.08)]
                canvas.fill(head, mirror(ribbon(line, 0.1, 0.03), side), coat.marks)
    face = head.moved(yaw, 0)
    for side in (-1, 1):
        canvas.fill(face, oval(0.19 * side, 0.47, 0.27, 0.22), coat.light)
    canvas.fill(face, oval(0, 0.7, 0.18, 0.13), coat.light)
    iris = rng.choice(_CAT_EYES)
    pupil = (rng.uniform(0.045, 0.1), 0.18)
    shut = rng.random() < 0.08
    for side in (-1, 1):
        if shut:
            lid = spline([(0.2, -0.1), (0.42, 0.02), (0.66, -0.12)], closed=False)
            canvas.stroke(face, mirror(lid, side), INK, 0.06)
        else:
            _eye(canvas, face, 0.43 * side, -0.08, iris, pupil)
    nose = [(-0.13, 0.24), (0.13, 0.24), (0.05, 0.36), (-0.05, 0.36)]
    canvas.part(face, nose, mix(PINK, coat.marks, rng.choice((0, 0.5))), INK)
    canvas.stroke(face, [(0, 0.36), (0, 0.46)], INK)
    for side in (-1, 1):
        smile = spline([(0, 0.46), (0.12, 0.56), (0.27, 0.5)], closed=False)
        canvas.stroke(face, mirror(smile, side), INK)
    _whiskers(canvas, face, rng, coat)


def _whiskers(canvas: Canvas, face: Frame, rng: random.Random, coat: Coat) -> None:
    colour = WHITE if sum(coat.base) < 500 else (80, 70, 70)
    droop = rng.uniform(-0.12, 0.2)
    for side in (-1, 1):
        for k in (-1, 0, 1):
            end = (1.35, 0.42 + k * 0.22 + droop)
            line = spline([(0.3, 0.46 + k * 0.08), (0.8, 0.4 + k * 0.13), end], closed=False)
            canvas.stroke(face, mirror(line, side), colour, 0.03)


def cat_profile(canvas: Canvas, head: Frame, fur: _Fur, rng: random.Random) -> None:
    """Seen from the side, facing right: a short muzzle."""
    coat, ink = fur.coat, fur.coat.ink
    canvas.part(head, [(0.25, -0.6), (0.55, -1.35), (0.75, -0.45)], fur.far, ink)
    skull = blob(
        (-0.75, 0.1), (-0.6, -0.55), (0, -0.85), (0.5, -0.68), (0.82, -0.2), (1.08, 0.1),
        (1.05, 0.42), (0.7, 0.6), (0.1, 0.72), (-0.5, 0.6),
    )  # fmt: skip
    canvas.part(head, ruffled(skull, coat.ruffle), fur.head, ink)
    if coat.pattern == "stripes":
        for y in (-0.05, 0.2):
            canvas.fill(head, ribbon([(-0.6, y), (-0.1, y + 0.1)], 0.12, 0.03), coat.marks)
    ear = [(-0.55, -0.5), (-0.32, -1.5), (0.22, -0.72)]
    canvas.part(head, ear, fur.head, ink)
    canvas.fill(head, [(-0.38, -0.62), (-0.27, -1.22), (0.08, -0.74)], PINK)
    canvas.fill(head, oval(0.8, 0.38, 0.26, 0.2), coat.light)
    canvas.part(head, oval(0.5, -0.14, 0.17, 0.2, 0.2), rng.choice(_CAT_EYES), INK)
    canvas.fill(head, oval(0.55, -0.14, 0.05, 0.17), INK)
    canvas.part(head, [(1.0, 0.0), (1.14, 0.1), (1.03, 0.2)], PINK, INK)
    canvas.stroke(head, spline([(1.02, 0.22), (0.95, 0.42), (0.7, 0.42)], closed=False), INK)
    colour = WHITE if sum(coat.base) < 500 else (80, 70, 70)
    for k in (-1, 0, 1):
        line = spline([(0.85, 0.35), (1.1, 0.4 + k * 0.12), (1.5, 0.5 + k * 0.25)], closed=False)
        canvas.stroke(head, line, colour, 0.03)


_EARS = ("hanging", "hanging", "hanging", "folded", "folded", "round")
_DOG_EYES: tuple[Colour, ...] = ((70, 42, 26), (50, 32, 24), (110, 70, 36), (110, 150, 180))


def _tongue(canvas: Canvas, frame: Frame, x: float, y: float, length: float) -> None:
    outline = blob(
        (x - 0.16, y), (x - 0.17, y + length * 0.6), (x, y + length), (x + 0.17, y + length * 0.6),
        (x + 0.16, y),
    )  # fmt: skip
    canvas.part(frame, outline, TONGUE, (130, 40, 56))
    canvas.stroke(frame, [(x, y + 0.04), (x, y + length * 0.6)], (180, 60, 80), 0.03)


def dog_face(  # noqa: C901 - a face, from its ears to its smile
    canvas: Canvas, head: Frame, fur: _Fur, yaw: float, rng: random.Random
) -> None:
    """Seen from the front: a long snout with a big nose, ears that hang or round off."""
    coat, ink = fur.coat, fur.coat.ink
    yaw *= 0.16
    ears = rng.choice(_EARS)
    flap: Paint = coat.marks if coat.pattern != "plain" or rng.random() < 0.3 else fur.far
    droop, spread = rng.uniform(0.75, 1.15), rng.uniform(0, 0.2)
    if ears == "round":
        for side in (-1, 1):
            ear = blob(
                (0.3, -0.7), (0.45, -1.15), (0.78 + spread, -1.3), (1.02 + spread, -1.1),
                (0.98, -0.7), (0.8, -0.3),
            )  # fmt: skip
            canvas.part(head, mirror(ear, side), fur.head, ink)
            inner = oval(0.72 + spread * 0.6, -0.9, 0.16, 0.26, 0.35)
            canvas.fill(head, mirror(inner, side), mix(PINK, coat.base, 0.5))
    skull = blob(
        (0, -0.92), (0.5, -0.86), (0.82, -0.45), (0.84, 0.05), (0.68, 0.5), (0.5, 0.85), (0, 1.05),
        (-0.5, 0.85), (-0.68, 0.5), (-0.84, 0.05), (-0.82, -0.45), (-0.5, -0.86),
    )  # fmt: skip
    canvas.part(head, ruffled(skull, coat.ruffle), fur.head, ink)
    if coat.pattern == "stripes":
        for x, tilt in ((-0.26, -0.08), (0, 0), (0.26, 0.08)):
            line = [(x + tilt + yaw, -0.86), (x + yaw, -0.55)]
            canvas.fill(head, ribbon(line, 0.14, 0.05), coat.marks)
    face = head.moved(yaw, 0)
    if coat.white_bib:
        blaze = blob((0, -0.85), (0.14, -0.4), (0.22, 0.2), (-0.22, 0.2), (-0.14, -0.4))
        canvas.fill(face, blaze, coat.light)
    if rng.random() < 0.6:
        _tongue(canvas, face.moved(yaw * 0.6, 0), 0.0, 0.78, rng.uniform(0.3, 0.5))
    snout = blob(
        (0, 0.0), (0.33, 0.12), (0.5, 0.48), (0.42, 0.82), (0.16, 0.86), (0, 0.8), (-0.16, 0.86),
        (-0.42, 0.82), (-0.5, 0.48), (-0.33, 0.12),
    )  # fmt: skip
    muzzle = face.moved(yaw * 0.6, 0)
    canvas.part(muzzle, snout, coat.light, mix(coat.light, ink, 0.45))
    iris = rng.choice(_DOG_EYES)
    for side in (-1, 1):
        x, y = 0.4 * side, -0.2
        canvas.fill(face, oval(x, y, 0.17, 0.19), mix(coat.base, WHITE, 0.5))
        canvas.part(face, oval(x, y + 0.01, 0.14, 0.16), iris, INK)
        canvas.fill(face, oval(x, y + 0.02, 0.085, 0.1), (16, 12, 12))
        canvas.fill(face, oval(x - 0.05, y - 0.05, 0.045, 0.045), WHITE)
        brow = spline([(0.22, -0.48), (0.4, -0.54), (0.56, -0.44)], closed=False)
        canvas.stroke(face, mirror(brow, side), ink, 0.05)
    nose = blob((-0.25, 0.18), (0, 0.1), (0.25, 0.18), (0.17, 0.36), (0, 0.42), (-0.17, 0.36))
    canvas.fill(muzzle, nose, (28, 22, 24))
    canvas.fill(muzzle, oval(-0.07, 0.19, 0.07, 0.035), (130, 124, 128))
    canvas.stroke(muzzle, [(0, 0.4), (0, 0.62)], INK)
    for side in (-1, 1):
        smile = spline([(0, 0.62), (0.2, 0.74), (0.42, 0.6)], closed=False)
        canvas.stroke(muzzle, mirror(smile, side), INK, 0.05)
    if ears == "hanging":
        for side in (-1, 1):
            ear = blob(
                (0.4, -0.84), (0.78, -0.82), (1.08 + spread, -0.35), (1.2 + spread, 0.3 * droop),
                (1.05 + spread, 0.75 * droop), (0.84, 0.6 * droop), (0.74, 0.0),
            )  # fmt: skip
            canvas.part(head, mirror(ear, side), flap, ink)
    elif ears == "folded":
        for side in (-1, 1):
            ear = blob(
                (0.3, -0.8), (0.6, -1.12), (0.98, -1.0), (1.22 + spread, -0.55), (1.1 + spread, -0.2),
                (0.85, -0.45),
            )  # fmt: skip
            canvas.part(head, mirror(ear, side), flap, ink)


def dog_profile(canvas: Canvas, head: Frame, fur: _Fur, rng: random.Random) -> None:
    """Seen from the side, facing right: the whole length of the snout."""
    coat, ink = fur.coat, fur.coat.ink
    reach = rng.uniform(0.9, 1.15)
    if rng.random() < 0.6:
        _tongue(canvas, head, 0.85 * reach, 0.45, rng.uniform(0.35, 0.6))
    skull = blob(
        (-0.7, 0.1), (-0.6, -0.5), (-0.1, -0.8), (0.4, -0.66), (0.62, -0.28), (1.1 * reach, -0.14),
        (1.42 * reach, 0.02), (1.42 * reach, 0.34), (1.0, 0.54), (0.4, 0.62), (-0.1, 0.8),
        (-0.5, 0.7),
    )  # fmt: skip
    canvas.part(head, ruffled(skull, coat.ruffle), fur.head, ink)
    jaw = blob(
        (0.7, 0.05), (1.1 * reach, -0.04), (1.38 * reach, 0.1), (1.36 * reach, 0.32), (0.95, 0.46),
        (0.6, 0.4),
    )  # fmt: skip
    canvas.fill(head, jaw, coat.light)
    mouth = spline([(1.36 * reach, 0.26), (1.0, 0.34), (0.55, 0.28)], closed=False)
    canvas.stroke(head, mouth, INK, 0.05)
    canvas.fill(head, oval(1.4 * reach, 0.0, 0.17, 0.14), (28, 22, 24))
    canvas.fill(head, oval(1.37 * reach, -0.05, 0.05, 0.03), (130, 124, 128))
    canvas.part(head, oval(0.35, -0.24, 0.12, 0.14), rng.choice(_DOG_EYES), INK)
    canvas.fill(head, oval(0.32, -0.28, 0.04, 0.04), WHITE)
    if coat.pattern == "stripes":
        for y in (-0.6, -0.45):
            canvas.fill(head, ribbon([(-0.1, y), (0.2, y + 0.05)], 0.08, 0.04), coat.marks)
    ears = rng.choice(_EARS)
    flap: Paint = coat.marks if coat.pattern != "plain" else fur.far
    if ears == "hanging":
        ear = blob(
            (-0.55, -0.5), (-0.1, -0.62), (0.08, -0.2), (0.05, 0.45), (-0.22, 0.72), (-0.48, 0.4)
        )
        canvas.part(head, ear, flap, ink)
    elif ears == "folded":
        ear = blob((-0.5, -0.55), (-0.3, -1.02), (0.05, -0.95), (0.3, -0.42), (0.0, -0.5))
        canvas.part(head, ear, flap, ink)
    else:
        ear = blob((-0.5, -0.5), (-0.55, -1.0), (-0.3, -1.22), (-0.05, -1.0), (0.05, -0.6))
        canvas.part(head, ear, fur.head, ink)
        canvas.fill(head, oval(-0.28, -0.88, 0.12, 0.2), mix(PINK, coat.base, 0.5))
