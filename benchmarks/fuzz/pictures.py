"""Pictures of every permitted format, damaged; and what a second decoder makes of them."""

from __future__ import annotations

import functools
import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from benchmarks.fuzz.mutation import damage, field

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

# HEIC, which Pillow cannot write.
PHONES = Path(__file__).parents[2] / "tests" / "pixels" / "phones"
ODD_IMAGES = Path(__file__).parents[3] / "shared" / "data" / "odd-images.tar"
_LARGEST_ORIGINAL = 64 << 10


def originals() -> dict[str, bytes]:
    """What is mutated: files by name."""
    found = dict(valid_images())
    if ODD_IMAGES.exists():
        with tarfile.open(ODD_IMAGES) as archive:
            for member in archive:
                if member.isfile() and 0 < member.size <= _LARGEST_ORIGINAL:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
    return found


def valid_images() -> Iterator[tuple[str, bytes]]:
    """A small picture in every permitted format that Pillow writes, in several of its kinds."""
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 4), np.uint8)
    picture = Image.fromarray(coarse, "RGBA").resize((80, 60), Image.Resampling.BICUBIC)
    grey16 = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    frames = [picture.rotate(angle) for angle in (0, 90, 180)]
    kinds: list[tuple[str, str, dict[str, object]]] = [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "optimize": True}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"restart_marker_blocks": 2}),
        (
            "JPEG",
            "RGB",
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"},
        ),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGBA", {"save_all": True, "append_images": frames}),
        ("GIF", "P", {}),
        ("GIF", "P", {"save_all": True, "append_images": frames, "transparency": 1}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("DIB", "RGB", {}),
        *(("TIFF", "RGB", {"compression": c}) for c in ("raw", "tiff_lzw", "jpeg", "packbits")),
        ("TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "I;16", {"compression": "zstd"}),
        ("TIFF", "F", {}),
        ("AVIF", "RGB", {"speed": 10}),
        ("AVIF", "RGBA", {"speed": 10}),
        ("JPEG2000", "RGB", {}),
        ("JPEG2000", "L", {"irreversible": True, "tile_size": (32, 32)}),
        ("PPM", "RGB", {}),
        ("PPM", "1", {}),
        ("ICO", "RGBA", {}),
        ("DDS", "RGBA", {}),
        ("DDS", "RGBA", {"pixel_format": "DXT5"}),
        ("QOI", "RGBA", {}),
        ("SGI", "RGB", {}),
        ("PCX", "RGB", {}),
        ("PCX", "P", {}),
        ("TGA", "RGBA", {"compression": "tga_rle"}),
        ("TGA", "RGB", {}),
    ]
    for number, (format_, mode, options) in enumerate(kinds):
        sink = io.BytesIO()
        image = grey16 if mode == "I;16" else picture.convert(mode)
        image.save(sink, format_, **options)
        yield f"{number:02d}-{format_}-{mode}", sink.getvalue()
    for path in sorted(PHONES.glob("*.heic")):
        yield f"{path.stem}-HEIF", path.read_bytes()


@functools.cache
def _by_kind() -> dict[str, list[tuple[str, bytes]]]:
    """The originals by format or extension: the odd images are mostly PNGs."""
    kinds: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in originals().items():
        kind = name.rpartition(".")[2].lower() if "/" in name else name.split("-")[1]
        kinds.setdefault(kind, []).append((name, data))
    return kinds


def picture(chance: random.Random, _: bytes = b"") -> bytes:
    """A picture, some of its bytes changed, or some of the numbers that its format has."""
    kinds = list(_by_kind().values())
    _, original = chance.choice(chance.choice(kinds))
    _, other = chance.choice(chance.choice(kinds))
    data = original
    if chance.random() < 0.5:
        changed = bytearray(data)
        places = list(_numbers(data))
        for _ in range(chance.choice((1, 1, 2, 3))):
            if places:
                at, size, order = chance.choice(places)
                changed[at : at + size] = field(chance, size, order)[: len(data) - at]
        data = bytes(changed)
    else:
        data = damage(data, chance, other)
    if data.startswith(b"\x89PNG") and chance.random() < 0.7:
        data = _mend_checksums(data)
    return data


def _numbers(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Place, length and byte order of numbers that a file's structure hangs on."""
    if data.startswith(b"\x89PNG"):
        yield from _chunks(data, 8, "big", extra=12)
    elif data.startswith(b"\xff\xd8"):
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF:
            yield at + 2, 2, "big"
            yield from ((at + 4 + k, 1, "big") for k in range(10))
            if 0xC0 <= data[at + 1] <= 0xCF:
                yield from ((at + 5, 2, "big"), (at + 7, 2, "big"))
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    elif data[:4] in (b"II*\0", b"MM\0*"):
        order = "little" if data[:1] == b"I" else "big"
        yield 4, 4, order
        at = int.from_bytes(data[4:8], "little" if order == "little" else "big")
        count = int.from_bytes(data[at : at + 2], "little" if order == "little" else "big")
        yield at, 2, order
        for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 12), 12):
            yield from ((entry, 2, order), (entry + 2, 2, order), (entry + 4, 4, order))
            yield from ((entry + 8, 4, order), (entry + 8, 2, order))
    elif data.startswith(b"RIFF"):
        yield 4, 4, "little"
        yield from _chunks(data, 12, "little", extra=8)
    elif data[4:8] in (b"ftyp", b"jP  "):
        yield from _boxes(data, 0, len(data))
    else:  # headers of numbers alone
        for at in range(min(len(data), 136)):
            yield from ((at, 1, "little"), (at, 2, "little"), (at, 4, "little"), (at, 4, "big"))


def _chunks(data: bytes, at: int, order: str, *, extra: int) -> Iterator[tuple[int, int, str]]:
    while at + 8 <= len(data):
        length_at = at if order == "big" else at + 4
        length = int.from_bytes(
            data[length_at : length_at + 4], "little" if order == "little" else "big"
        )
        yield length_at, 4, order
        yield from ((at + 8 + k, size, order) for k in range(0, 16, 2) for size in (1, 2, 4))
        at += extra + length + (length % 2 if order == "little" else 0)


_CONTAINERS = (b"meta", b"iprp", b"ipco", b"iinf", b"jp2h", b"moov", b"iref", b"dinf")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, str]]:
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        yield at, 4, "big"
        yield from ((at + 8 + k, size_, "big") for k in range(0, 24, 2) for size_ in (1, 2, 4))
        if kind in _CONTAINERS:
            skipped = {b"meta": 12, b"iinf": 14, b"iref": 12}.get(kind, 8)
            yield from _boxes(data, at + skipped, min(end, at + size))
        at += max(size, 8)


def _mend_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now, or nobody looks into them."""
    changed, at = bytearray(data), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


# ------------------------------------------------------------------------------------------------
# The second decoder


def _first_page(data: bytes) -> Any:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        values = page.asarray()
        if page.photometric == 0:
            values = np.iinfo(values.dtype).max - values
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        return values if page.photometric in (0, 1, 2) else None


_OTHERS: dict[str, Callable[[bytes], Any]] = {
    "JPEG": imagecodecs.jpeg8_decode,
    "PNG": imagecodecs.png_decode,
    "WEBP": imagecodecs.webp_decode,
    "AVIF": imagecodecs.avif_decode,
    "JPEG2000": imagecodecs.jpeg2k_decode,
    "QOI": imagecodecs.qoi_decode,
    "BMP": imagecodecs.bmp_decode,
    "TIFF": _first_page,
}
_FAR = 12.0
"""Levels on average between two pictures that are not the same; scaling explains some."""


def other_picture(data: bytes, format_: str, pixels: Any) -> float | None:
    """How far the picture is from what another library makes of the same bytes.

    Args:
        data: the file.
        format_: Pillow's name of its format.
        pixels: uint8 (H, W, 3), as a network is given it.

    Returns:
        Levels on average where that is too far, else None, as where there is no second opinion: the
        other library reads no such file, or one of our own rules (alpha, depth, turning) has a say.
    """
    if format_ not in _OTHERS or not _is_plain(data):
        return None
    try:
        values = np.asarray(_OTHERS[format_](data))
    except Exception:
        return None
    if values.dtype != np.uint8 or values.ndim not in (2, 3) or values.size > 1 << 24:
        return None
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim == 3 and values.shape[2] != 3:
        return None
    size = (pixels.shape[1], pixels.shape[0])
    small = Image.fromarray(values).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    far = float(np.abs(np.asarray(small).astype(float) - pixels).mean())
    if far > _FAR and format_ == "JPEG":
        # Scaled in its DCT, a picture of senseless coefficients saturates less than in its full size.
        with Image.open(io.BytesIO(data)) as image:
            far = float(np.abs(np.asarray(image).astype(float) - values).mean())
    return far if far > _FAR else None


def _is_plain(data: bytes) -> bool:
    """Whether a file is grey or colour of 8 bits, without alpha, profile of inks or orientation."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            bits = getattr(image, "tag_v2", {}).get(258, 8)
            return (
                image.mode in ("L", "RGB")
                and "transparency" not in image.info
                and image.getexif().get(0x0112, 1) == 1
                and (set(bits) if isinstance(bits, tuple) else {bits}) == {8}
            )
    except Exception:
        return False
