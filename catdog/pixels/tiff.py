"""What a TIFF's tags say about its numbers beyond Pillow's modes, and which TIFFs Pillow misreads."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import TiffImagePlugin

from catdog.errors import ErrorCode, ImageRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

_WIDTH, _HEIGHT, _STRIP_OFFSETS, _STRIP_ROWS = 256, 257, 273, 278
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 322, 323, 324
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _MAX_VALUE = 254, 258, 259, 262, 266, 281
_COLOURS = 320
_PLANAR, _SUB_IFDS, _INK_SET, _EXTRA, _SAMPLE_FORMAT, _DNG_VERSION = 284, 330, 332, 338, 339, 50706
_SUBSAMPLING, _CFA, _LINEAR_RAW = 530, 32803, 34892
_WEBP = 50001  # of compressions the one that Pillow knows and its libtiff cannot read


@dataclass(frozen=True, slots=True)
class Samples:
    """The meaning of the numbers of a picture with one channel."""

    bits: int = 16
    """Significant bits of an integer that is stored in 16."""

    white_is_zero: bool = False
    """Whether the smallest number is white (and Pillow has not turned it already)."""

    signed: bool = False
    """Whether integers of 8 bits are from -128 on."""

    signed_16: bool = False
    """Whether integers of 16 bits are from -32,768 on, so that half of their range is 32,767."""

    unsigned_32: bool = False
    """Whether 32-bit integers are from 0 on."""

    swapped_bytes: int = 0
    """Bytes of a number that Pillow has turned once too often; 0 where it has not."""

    undeclared_alpha: bool = False
    """Whether nothing says that a fourth channel is an opacity."""


def refuse_undecodable(image: Image.Image) -> None:
    """Refuses an opened image that would fail as a damaged one does.

    Raises:
        ImageRejected: it is one.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags: Mapping[int, Any] = image.tag_v2
        if _first(tags, _COMPRESSION, 1) == _WEBP:
            raise _unsupported("compressed as WebP")


def samples(image: Image.Image) -> Samples:
    """How the numbers of an opened image are meant; that of other formats than TIFF says it all.

    Raises:
        ImageRejected: Pillow reads another picture than the file holds.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return Samples()
    tags: Mapping[int, Any] = image.tag_v2
    refuse_raw(tags)
    _refuse_misread(tags, channels=len(image.getbands()))
    _refuse_cut(tags)
    depth = max(_numbers(tags, _BITS, 1))
    if depth == 16:
        # Fewer bits in 16: the specification calls this tag a statistic, but what writes exactly
        # the largest number of a camera's bits means its bits.
        most = _first(tags, _MAX_VALUE, 0xFFFF)
        depth = next((bits for bits in (10, 12, 14) if most == (1 << bits) - 1), 16)
    format_ = _first(tags, _SAMPLE_FORMAT, 1)
    # libtiff has turned the bytes of compressed numbers; of wide ones Pillow does not know.
    wide = image.mode in ("I", "F") and image.tag_v2.prefix == b"MM"
    turned_twice = wide and _first(tags, _COMPRESSION, 1) != 1
    return Samples(
        bits=depth if depth in (10, 12, 14) else 16,
        white_is_zero=_first(tags, _PHOTOMETRIC, 0) == 0 and image.mode[0] in "IF",
        signed=format_ == 2 and image.mode == "L",
        signed_16=format_ == 2 and depth == 16,
        unsigned_32=format_ == 1 and image.mode == "I" and depth == 32,
        swapped_bytes=depth // 8 if turned_twice else 0,
        undeclared_alpha=_first(tags, _EXTRA, 0) not in (1, 2),
    )


def _refuse_misread(tags: Mapping[int, Any], channels: int) -> None:
    """Refuses kinds of TIFF that Pillow takes for another one."""
    bits = max(_numbers(tags, _BITS, 1))
    packed = _first(tags, _COMPRESSION, 1) != 1
    photometric = _first(tags, _PHOTOMETRIC, 0)
    if channels > 1 and bits > 8 and _first(tags, _PLANAR, 1) == 2:
        raise _unsupported(f"{bits} bits a channel in separate planes")
    if photometric == 3 and 0 < max(_numbers(tags, _COLOURS, 0xFFFF)) < 256:
        raise _unsupported("a palette of 8 bits in place of 16")  # it would be black
    if photometric == 5 and _first(tags, _INK_SET, 1) != 1:
        raise _unsupported("inks other than cyan, magenta, yellow and black")
    if bits == 12 and packed:
        raise _unsupported("compressed 12-bit grey")
    if bits > 8 and packed and _first(tags, _FILL_ORDER, 1) == 2:
        raise _unsupported(f"compressed {bits} bits in reversed order")
    if photometric == 6 and not packed and _numbers(tags, _SUBSAMPLING, 2) != (1, 1):
        raise _unsupported("uncompressed YCbCr with fewer colour than grey values")


def _refuse_cut(tags: Mapping[int, Any]) -> None:
    """Refuses a file that names fewer strips or tiles than cover it: Pillow leaves the rest black."""
    # Of strips and tiles without a width or height Pillow has decoded none.
    width, height = _first(tags, _WIDTH, 1), _first(tags, _HEIGHT, 1)
    if _TILE_OFFSETS in tags:
        across = -(-width // _first(tags, _TILE_WIDTH, width))
        wanted = across * -(-height // _first(tags, _TILE_HEIGHT, height))
        found = len(_numbers(tags, _TILE_OFFSETS, 0))
    else:
        wanted = -(-height // _first(tags, _STRIP_ROWS, height))
        found = len(_numbers(tags, _STRIP_OFFSETS, 0))
    if found < wanted:
        raise ImageRejected(
            ErrorCode.TRUNCATED,
            f"The TIFF is damaged or cut off: it has {found} of {wanted} pieces of the picture.",
        )


def refuse_raw_bytes(data: bytes) -> None:
    """Refuses a camera's raw file that Pillow could not open.

    Raises:
        ImageRejected: it is one.
    """
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        tags: Mapping[int, Any] = dict(directory)
    except Exception:
        return
    refuse_raw(tags)


def refuse_raw(tags: Mapping[int, Any]) -> None:
    """Refuses a camera's raw file: its first picture is a preview, or no picture yet.

    Raises:
        ImageRejected: the tags are of one.
    """
    preview = _first(tags, _SUBFILE, 0) & 1 and _SUB_IFDS in tags
    sensor = _first(tags, _PHOTOMETRIC, 0) in (_CFA, _LINEAR_RAW)
    if _DNG_VERSION in tags or preview or sensor:
        raise camera_raw()


def camera_raw() -> ImageRejected:
    """The answer to every camera's raw format."""
    return ImageRejected(
        ErrorCode.UNSUPPORTED,
        "Camera raw files (DNG and the like) are not supported: export them as JPEG or TIFF.",
    )


def _unsupported(what: str) -> ImageRejected:
    return ImageRejected(ErrorCode.UNSUPPORTED, f"This kind of TIFF cannot be decoded: {what}.")


def _numbers(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    return tuple(each for each in values if isinstance(each, int)) or (default,)


def _first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    return _numbers(tags, tag, default)[0]
