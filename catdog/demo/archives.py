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

from catdog import storage
from catdog.demo.drawings import LABELS, Label, draw, draw_jpeg, draw_with_look, encode
from catdog.errors import ErrorCode

if TYPE_CHECKING:
    from pathlib import Path


def _seed(purpose: str, seed: int, number: int) -> int:
    """A seed for one picture: unseen pictures share none with the training set."""
    digest = hashlib.blake2b(f"{purpose} {seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def undrawn(folder: Path, count: int) -> list[tuple[Path, Label, int]]:
    """Path, label and number of each drawing of a dataset that is not there yet."""
    drawings = ((number, LABELS[number % 2]) for number in range(count))
    paths = ((folder / label / f"{label}.{n // 2}.jpg", label, n) for n, label in drawings)
    return [each for each in paths if not each[0].exists()]


def write_dataset(folder: Path, count: int, seed: int) -> None:
    """Write `count` drawings, half of them cats: `cat/cat.0.jpg`, `dog/dog.0.jpg`, and so on.

    Drawings that are there stay as they are: a file drawn anew would be a changed one to every job.
    """
    for path, label, number in undrawn(folder, count):
        data = draw_jpeg(label, _seed("training", seed, number))
        storage.write_atomic(storage.to_uri(str(path)), data)


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

    @classmethod
    def of(cls, folder: Path, count: int) -> Archives:
        """Those that `write_archives` writes there."""
        return cls(
            tar=folder / "unseen.tar",
            zip=folder / "unseen.zip",
            good=count,
            broken=dict(Counter(reason for _, reason, _ in _BROKEN * 2)),
        )

    def are_there(self) -> bool:
        """Whether both are written."""
        return self.tar.exists() and self.zip.exists()


def write_archives(folder: Path, count: int, seed: int) -> Archives:
    """Pack `count` drawings, none of them in any `write_dataset`, into a tar and a zip.

    Each archive has its broken files in excess of `count`, and among its good ones a few that are
    odd: grey, CMYK, palette, rotated by EXIF, transparent WebP. Folders are nested, and base names
    recur from folder to folder. Same arguments, same bytes. An archive that is there stays as it is.
    """
    archives = Archives.of(folder, count)
    half = (count + 1) // 2
    for path, numbers, packed in (
        (archives.tar, range(half), _tar),
        (archives.zip, range(half, count), _zip),
    ):
        if not path.exists():
            storage.write_atomic(storage.to_uri(str(path)), packed(_members(numbers, seed)))
    return archives


def _tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _zip(members: Sequence[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, data in members:
            packed.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


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
