"""Settings, without a decoder: the geometry of a model's pixels, and the limits of decoding."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from catdog.errors import CatdogError, UserInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Resize = Literal["stretch", "crop", "pad"]
Truncated = Literal["reject", "decode"]

PIXELS_VERSION = 1
"""Raised when correctly read bytes would give other pixels; older models are then refused.
Not raised for a fix to a kind of file that was read wrongly."""

_MAX_SIDE = 4096  # of what a model sees: a batch must fit in shared memory


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits for decoding one image. A job rejects an image beyond a limit and continues."""

    max_pixels: int = 120_000_000
    """Largest image in pixels (width x height in its header), checked before decoding. Common cameras
    make at most 108 million."""

    timeout_s: float = 30.0
    """Seconds to decode one image, once it is read. Then the decoding process is killed."""

    memory_bytes: int = 2816 * 1024**2
    """Memory to decode one image, in bytes, enforced on the decoding process. The default suffices
    for the largest permitted image: measured peaks in bytes per pixel are JPEG 3 to 8, PNG and TIFF 4
    to 13, HEIC 8, WebP 16, JPEG 2000 19 to 24."""

    truncated: Truncated = "reject"
    """What to do with a cut or damaged JPEG or PNG. `reject` gives a row `truncated`; `decode`
    classifies what could be decoded, and the column `decoded` has its share."""

    def __post_init__(self) -> None:
        if self.truncated not in get_args(Truncated):
            raise UserInputError(f"--truncated {self.truncated}: must be reject or decode")
        for name in ("max_pixels", "timeout_s", "memory_bytes"):
            if not getattr(self, name) > 0:
                raise UserInputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be more than 0"
                )


def check_sides(height: int, width: int) -> None:
    """Refuse flags with a size that `Preprocessing` cannot have.

    Raises:
        UserInputError: names the flag and the range.
    """
    for name, side in (("height", height), ("width", width)):
        if not 1 <= side <= _MAX_SIDE:
            raise UserInputError(f"--{name} {side}: must be from 1 to {_MAX_SIDE} pixels")


@dataclass(frozen=True)
class Preprocessing:
    """Geometry of the pixels that a model sees. It is part of the model, so every job uses the same."""

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
        """The canonical text of this preprocessing, for fingerprints."""
        return json.dumps(self.to_json_dict(), sort_keys=True, separators=(",", ":"))
