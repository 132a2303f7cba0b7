"""Data sets and archives of drawings, with broken files among them."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, ImageDraw

from catdog.demo.drawings import LABELS, draw, draw_jpeg, draw_with_look, encode
from catdog.errors import ErrorCode

if TYPE_CHECKING:
    from pathlib import Path


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
        image, look = draw_with_look(label, _seed("unseen", seed, number))
        if place < len(_ODD):
            name, encoded = _ODD[place]
            members.append((f"{label}/odd/{name}", encoded(image)))
            continue
        folder = f"{label}/{look.backdrop}"
        name = f"{folder}/{label}.{taken[folder]}.jpg"
        taken[folder] += 1
        members.append((name, encode(image, "JPEG", quality=look.quality)))
    whole = draw("dog", _seed("broken", seed, 0))
    members += [(name, broken(whole)) for name, _, broken in _BROKEN]
    random.Random(seed).shuffle(members)  # noqa: S311 - an order, not a secret
    return members


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter before it is shown
    lying = image.transpose(Image.Transpose.ROTATE_90)
    return encode(lying, "JPEG", quality=85, exif=exif)


def _transparent(image: Image.Image) -> bytes:
    mask = Image.new("L", image.size)
    box = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, min(image.size) // 4, fill=255)
    image = image.copy()
    image.putalpha(mask)
    return encode(image, "WEBP", quality=85)


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
    ("grey.jpg", lambda image: encode(image.convert("L"), "JPEG", quality=85)),
    ("cmyk.jpg", lambda image: encode(image.convert("CMYK"), "JPEG", quality=85)),
    ("palette.png", lambda image: encode(image.quantize(64), "PNG")),
    ("rotated.jpg", _rotated),
    ("transparent.webp", _transparent),
)
_BROKEN: tuple[tuple[str, ErrorCode, _Encode], ...] = (
    ("cat/broken/cut.jpg", ErrorCode.TRUNCATED, lambda i: _first_half(encode(i, "JPEG"))),
    ("dog/broken/cut.png", ErrorCode.TRUNCATED, lambda i: _first_half(encode(i, "PNG"))),
    ("cat/broken/empty.jpg", ErrorCode.EMPTY, lambda _: b""),
    ("dog/broken/text.jpg", ErrorCode.NOT_AN_IMAGE, lambda _: b"The dog ate this picture.\n" * 20),
    ("cat/broken/enormous.png", ErrorCode.TOO_LARGE, _enormous_png),
)
