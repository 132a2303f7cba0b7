"""Fuzzing of the decoders: mutated images through the very process that decodes in a job.

    python -m benchmarks.fuzz [--seconds 60] [--seed 0] [--keep FOLDER]

Takes valid images of every permitted format, and the odd images where they lie beside the project,
changes some bytes, and feeds the result to `pixels.Decoder`. Whatever the bytes are, the outcome
must be pixels or a reason; a reason may be `crashed` or `timeout`, since that costs one row in a job
as well. An exception that is not `ImageRejected` is a defect: it would stop a job. Prints a JSON
object and exits with 1 if there was one. A case follows from the seed and its number; `--keep` has
the files of defects, crashes and time-outs written.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import random
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from catdog import inputs
from catdog.errors import CatdogError, ErrorCode
from catdog.pixels import DecodeLimits, Decoder, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

PHONES = (
    Path(__file__).parents[1] / "tests" / "pixels" / "phones"
)  # HEIC, which Pillow cannot write
ODD_IMAGES = Path(__file__).parents[2] / "shared" / "data" / "odd-images.tar"
# Smaller than in a job, so that more cases fit into a minute; the code behind them is the same.
LIMITS = DecodeLimits(max_pixels=4_000_000, timeout_s=10, memory_bytes=512 << 20)
_LARGEST_ORIGINAL = 64 << 10
_BATCH_CASES = 512
_INTERESTING = (0, 1, 2, 3, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


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


def make_case(seed: int, number: int) -> tuple[str, bytes]:
    """The file of a case, and the name of what it was made from."""
    chance = random.Random(f"{seed}/{number}")
    kinds = list(_by_kind().values())
    name, original = chance.choice(chance.choice(kinds))
    _, other = chance.choice(chance.choice(kinds))
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        _mutate(data, chance, other)
    if data.startswith(b"\x89PNG") and chance.random() < 0.7:
        _mend_checksums(data)
    return name, bytes(data)


def _mutate(data: bytearray, chance: random.Random, other: bytes) -> None:
    """Change some bytes, more often those near the start, where the headers are."""
    if not data:
        data += chance.randbytes(8)
    reach = len(data) if chance.random() < 0.5 else min(len(data), 256)
    at = chance.randrange(reach)
    length = min(len(data) - at, chance.choice((1, 2, 4, 16, 64, 1024)))
    match chance.randrange(10):
        case 0 | 1:
            data[at] ^= 1 << chance.randrange(8)
        case 2:
            data[at : at + length] = chance.randbytes(length)
        case 3 | 4:
            size = chance.choice((1, 2, 4))
            value = (chance.choice(_INTERESTING) + chance.randrange(-1, 2)) % 256**size
            data[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))
        case 5:
            del data[at : at + length]
        case 6:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
        case 7:
            data[at:at] = chance.randbytes(length)
        case 8:
            del data[at:]
        case 9:
            start = chance.randrange(len(other))
            data[at:] = other[start:]


def _mend_checksums(data: bytearray) -> None:
    """Give a PNG's chunks the checksums of what they hold now, or nobody looks into them."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


class Fuzzing:
    """Runs cases and counts what becomes of them."""

    def __init__(self, seed: int, scratch: Path, keep: Path | None) -> None:
        self.cases = 0
        self.outcomes: Counter[str] = Counter()
        self.defects: list[str] = []
        self._seed, self._scratch, self._keep = seed, scratch, keep
        self._decoder = Decoder(Preprocessing(32, 32), LIMITS, inputs.SourceLimits(), 64)

    def __enter__(self) -> Fuzzing:
        self._decoder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._decoder.__exit__(None, None, None)

    def run_batch(self, count: int = _BATCH_CASES) -> None:
        """The next cases."""
        made = [make_case(self._seed, self.cases + number) for number in range(count)]
        path = self._scratch / "cases"
        path.write_bytes(b"".join(data for _, data in made))
        rows, offset = [], 0
        for number, (name, data) in enumerate(made, self.cases):
            rows.append(
                {"uri": f"case://{number}", "name": name, "container": path.as_uri()}
                | {"offset": offset, "length": len(data), "size": len(data), "codec": "tar"}
            )
            offset += len(data)
        entries = pa.Table.from_pylist(rows, inputs.PLAN_SCHEMA)
        done = 0
        while done < count:
            try:
                for batch in self._decoder.decode(entries.slice(done)):
                    for row in batch.outcomes.to_pylist():
                        self._count(self.cases + done, row["error"] or row["format"], row)
                        done += 1
            except CatdogError:
                done += self._find_defect(entries.slice(done), self.cases + done)
        self.cases += count

    def _find_defect(self, entries: pa.Table, first: int) -> int:
        """Count cases one by one up to the one that raised. Returns how many that were."""
        for number in range(entries.num_rows):
            try:
                for batch in self._decoder.decode(entries.slice(number, 1)):
                    (row,) = batch.outcomes.to_pylist()
                    self._count(first + number, row["error"] or row["format"], row)
            except CatdogError as error:
                self.defects.append(f"case {first + number}: {error}")
                self._write(first + number, "defect")
                return number + 1
        return entries.num_rows

    def _count(self, number: int, outcome: str, row: dict[str, object]) -> None:
        self.outcomes[outcome] += 1
        if outcome in (ErrorCode.CRASHED, ErrorCode.TIMEOUT):
            print(f"case {number}: {row['error_detail']}", file=sys.stderr)
            self._write(number, outcome)

    def _write(self, number: int, outcome: str) -> None:
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            path = self._keep / f"{outcome}-{self._seed}-{number}"
            path.write_bytes(make_case(self._seed, number)[1])


def main() -> None:
    """Fuzz and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    arguments = parser.parse_args()
    started = told = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="catdog-fuzz-") as scratch,
        Fuzzing(arguments.seed, Path(scratch), arguments.keep) as fuzzing,
    ):
        while time.monotonic() < started + arguments.seconds:
            fuzzing.run_batch()
            if time.monotonic() > told + 10:
                told = time.monotonic()
                print(f"{fuzzing.cases:,} cases", file=sys.stderr)
    outcomes, codes = sorted(fuzzing.outcomes.items()), set(ErrorCode)
    record = {
        "seed": arguments.seed,
        "originals": len(originals()),
        "cases": fuzzing.cases,
        "decoded": {name: count for name, count in outcomes if name not in codes},
        "rejected": {name: count for name, count in outcomes if name in codes},
        "defects": fuzzing.defects,
        "pillow": Image.__version__,
    }
    print(json.dumps(record, indent=2))
    sys.exit(1 if fuzzing.defects else 0)


if __name__ == "__main__":
    main()
