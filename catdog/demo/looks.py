"""What the seed decides of a picture, whatever the label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from catdog.demo.backdrops import BACKDROPS
from catdog.demo.shapes import INK, WHITE, Colour, Point, mix

if TYPE_CHECKING:
    import random

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
Pose = Literal["face", "sitting", "lying", "standing"]


@dataclass(frozen=True)
class Coat:
    """Colours of the fur and how they are laid out."""

    base: Colour
    marks: Colour
    light: Colour
    pattern: _Pattern
    white_bib: bool
    ruffle: float
    ink: Colour

    @classmethod
    def drawn_from(cls, rng: random.Random) -> Coat:
        """A coat, by the next random numbers."""
        base = rng.choice(_FURS)
        base = mix(base, rng.choice(_FURS), rng.uniform(0, 0.25))
        bright = sum(base) / 3
        marks = rng.choice([fur for fur in _FURS if abs(sum(fur) / 3 - bright) > 40])
        ink = mix(base, INK, 0.75) if bright > 85 else (18, 14, 16)
        return cls(
            base=base,
            marks=mix(base, marks, rng.uniform(0.55, 0.95)),
            light=mix(base, WHITE, rng.uniform(0.35, 0.9)),
            pattern=rng.choice(("plain", "plain", "stripes", "patches", "spots")),
            white_bib=rng.random() < 0.4,
            ruffle=rng.choice((0.0, 0.0, 0.05)),
            ink=ink,
        )


@dataclass(frozen=True)
class Look:
    """Everything about a picture but the animal's anatomy."""

    width: int
    height: int
    pose: Pose
    side: int
    zoom: float
    shift: Point
    lean: float
    head_turn: float
    yaw: float
    profile: bool
    coat: Coat
    collar: Colour
    backdrop: str
    brightness: float
    contrast: float
    warmth: float
    blur: float
    noise: float
    quality: int

    @classmethod
    def drawn_from(cls, rng: random.Random) -> Look:
        """A look, by the next random numbers."""
        longest = rng.triangular(110, 400, 190)
        aspect = rng.choice((1.0, 0.75, 0.8, 0.67, 1.0, 0.9)) * rng.uniform(0.93, 1.07)
        short, long = max(80, round(longest * min(aspect, 1.0))), round(longest)
        pose: Pose = rng.choice(("face", "face", "sitting", "sitting", "lying", "standing"))
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
            coat=Coat.drawn_from(rng),
            collar=rng.choice(_COLLARS),
            backdrop=rng.choice(tuple(BACKDROPS)),
            brightness=rng.gauss(8, 14),
            contrast=rng.uniform(0.85, 1.15),
            warmth=rng.gauss(0, 0.06),
            blur=rng.choice((0.0, 0.0, 0.0, rng.uniform(0.3, 1.4))),
            noise=rng.choice((0.0, 0.0, rng.uniform(2, 10))),
            quality=rng.randint(45, 95),
        )
