"""Fuzzing of archives and tables: mutated ones through the doors that a job uses.

    python -m benchmarks.fuzz_inputs [--seconds 60] [--seed 0] [--keep FOLDER]

Draws small zips, tars, gzipped tars, lists, CSV (gzipped, too), JSON Lines and Parquet, changes numbers where the
format has numbers (sizes, offsets, counts, types, checksums mended) and bytes elsewhere, and feeds
them to `inputs.list_images` and `inputs.read_images`, a sound image beside them. Whatever the bytes
are, listing ends with entries or a `CatdogError`, each entry with bytes or a reason, the sound
neighbour with its bytes, in bounded time. Anything else is a defect. A case follows from the seed
and its number. Prints a JSON object, exits with 1 if there was a defect.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catdog import inputs
from catdog.errors import CatdogError, ImageRejected

SOUND = b"sound" * 9
LIMITS = inputs.SourceLimits(max_bytes=1 << 20, max_archive_members=1000)
_EDGES = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_SLOWEST_S = 20.0
# Signature -> (offset, bytes) of the numbers behind it: the records of a zip.
_ZIP_NUMBERS = {
    b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)),
    b"PK\5\6": ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((8, 8), (16, 4)),
    b"\1\0": ((2, 2), (4, 8), (12, 8), (20, 8)),  # the zip64 field
}
_TAR_NUMBERS = ((100, 8), (108, 8), (124, 12), (136, 12), (156, 1))
_TEXT = (
    *(b"", b"\0", b"\xff", b'"', b"'", b",", b";", b"\t", b"\r", b"\n", b"\\", b"::", b"..", b"{"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"uri,uri\n", b"label", b"bytes", b"x" * 70_000, b"*", b"?"),
    *(
        b"zip://a::b",
        b"tar://::",
        b"catdog://a!b",
        b"catdog://%ff!",
        b"s3://a:b/c@d",
        b"file://",
        b"C:\\a.jpg",
        b"null",
        b"[1]",
        b"1e999",
        b"\xed\xa0\x80",
    ),
)
_MEMBERS = ("a.jpg", "dog/b.png", "cat/" + "n" * 120 + ".jpg", "ü.jpg")


def _zip(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    kind = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name in _MEMBERS:
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            if chance.random() < 0.3:  # stays unused until a size or an offset says that it counts
                info.extra = struct.pack("<HHQQQ", 1, 24, len(SOUND), len(SOUND), 0)
            with archive.open(info, "w", force_zip64=chance.random() < 0.5) as member:
                member.write(SOUND)
    data = bytearray(stream.getvalue())
    for _ in range(chance.choice((1, 1, 2, 4))):
        signature = chance.choice(list(_ZIP_NUMBERS))
        places = [at for at in range(len(data)) if data.startswith(signature, at)]
        if places:
            offset, size = chance.choice(_ZIP_NUMBERS[signature])
            at = chance.choice(places) + offset
            data[at : at + size] = _edge(chance, size)
    return bytes(data)


def _edge(chance: random.Random, size: int) -> bytes:
    value = (chance.choice(_EDGES) + chance.randrange(-1, 2)) % 256**size
    return value.to_bytes(size, "little")


def _tar(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    dialect = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=dialect) as archive:
        for name in _MEMBERS:
            info = tarfile.TarInfo(name if dialect != tarfile.USTAR_FORMAT else name[-60:])
            info.size = len(SOUND)
            if dialect == tarfile.PAX_FORMAT and chance.random() < 0.5:
                keys = ("size", "path", "GNU.sparse.size", "GNU.sparse.map", "mtime", "linkpath")
                values = ("-1", "", "9" * 30, "../x", "a.jpg", str(chance.choice(_EDGES)))
                info.pax_headers = {chance.choice(keys): chance.choice(values)}
            archive.addfile(info, io.BytesIO(SOUND))
    data = bytearray(stream.getvalue())
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = 512 * chance.randrange(len(data) // 512)
        offset, size = chance.choice(_TAR_NUMBERS)
        match chance.randrange(3):
            case 0:
                value = b"%o" % chance.choice(_EDGES)
                field = value[:size].rjust(size, b"0")
            case 1:  # base 256
                field = b"\x80" + chance.choice(_EDGES).to_bytes(16, "big")[-(size - 1) :]
                field = field[:size].ljust(size, b"\0")
            case _:
                field = bytes([chance.choice(b"0123456789gxLKSDV \0")]) * size
        data[at + offset : at + offset + size] = field[:size]
        header = bytearray(data[at : at + 512])
        header[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


def _gzip(chance: random.Random) -> bytes:
    data = bytearray(gzip.compress(_tar(chance), 1))
    at = chance.choice((3, len(data) - 4, len(data) - 8, chance.randrange(len(data))))
    data[at : at + 4] = _edge(chance, 4)[: len(data) - at]
    return bytes(data)


def _list(chance: random.Random) -> bytes:
    return _spliced(b"sound.jpg\n# note\nnone.jpg\n", chance)


def _csv(chance: random.Random) -> bytes:
    return _spliced(b"uri,label\nsound.jpg,cat\nnone.jpg,dog\n", chance)


def _compressed_csv(chance: random.Random) -> bytes:
    data = bytearray(gzip.compress(_csv(chance), 1))
    at = chance.randrange(len(data))
    data[at : at + 4] = _edge(chance, 4)[: len(data) - at]
    return bytes(data)


def _jsonl(chance: random.Random) -> bytes:
    return _spliced(b'{"uri": "sound.jpg", "label": "cat"}\n{"uri": "none.jpg"}\n', chance)


def _spliced(text: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 2, 3))):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(_TEXT) + text[at + chance.choice((0, 0, 1, 5)) :]
    if chance.random() < 0.1:
        text = text.decode("latin-1").encode("utf-16")
    return text


def _parquet(chance: random.Random) -> bytes:
    text = pa.array(["sound.jpg", "none.jpg", None])
    columns = {
        "uri": [text, text.cast(pa.binary()), text.dictionary_encode(), pa.nulls(3)],
        "label": [
            text,
            pa.array([1, 2, 3]),
            pa.array([b"\xff", b"", None]),
            text.cast("large_utf8"),
        ],
        "bytes": [pa.array([SOUND, b"", None]), pa.array([[1], [], None]), pa.array([1.5, 2, 3])],
    }
    image = pa.array(
        [{"bytes": SOUND, "path": "a.jpg"}, {"bytes": None, "path": "sound.jpg"}, None]
    )
    nothing = pa.array([{"bytes": None, "path": "sound.jpg"}] * 3, image.type)
    columns["image"] = [image, nothing, *columns["bytes"], text]
    names = chance.sample(list(columns), chance.randrange(1, 5)) + ["uri"] * (chance.random() < 0.1)
    table = pa.Table.from_arrays([chance.choice(columns[name]) for name in names], names)
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="none")
    data = bytearray(stream.getvalue())
    footer = struct.unpack("<I", data[-8:-4])[0]
    for _ in range(chance.choice((0, 1, 2))):
        at = len(data) - 8 - chance.randrange(footer) if chance.random() < 0.7 else -8
        at = at if at >= 0 else len(data) - 8
        data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


KINDS = {
    "zip": _zip,
    "tar": _tar,
    "tar.gz": _gzip,
    "txt": _list,
    "csv": _csv,
    "csv.gz": _compressed_csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def make_case(kind: str, seed: int, number: int) -> bytes:
    """The file of a case."""
    chance = random.Random(f"{kind}/{seed}/{number}")
    data = KINDS[kind](chance)
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data) + 1)]
    return data


def run_case(kind: str, data: bytes, folder: Path) -> str:
    """What became of a case: a word. Raises what is a defect."""
    (folder / "sound.jpg").write_bytes(SOUND)
    path = folder / f"case.{kind}"
    path.write_bytes(data)
    began_at = time.monotonic()
    try:
        batches = list(inputs.list_images([str(path), str(folder / "sound.jpg")], LIMITS))
    except CatdogError:
        return "refused"
    entries = pa.Table.from_batches(batches, inputs.PLAN_SCHEMA)
    outcomes = list(inputs.read_images(entries, LIMITS, 2))
    assert len(outcomes) == len(entries), "an outcome for each entry"
    sound = (folder / "sound.jpg").as_uri()
    uris = entries["uri"].to_pylist()
    assert len(set(uris)) == len(uris), "an entry for each image"
    assert outcomes[uris.index(sound)] == SOUND, "the neighbour is unharmed"
    assert time.monotonic() - began_at < _SLOWEST_S, "in time"
    rejected = sum(isinstance(outcome, ImageRejected) for outcome in outcomes)
    return "sound" if not rejected else "rows"


def fuzz(seed: int, cases: range, keep: Path | None = None) -> tuple[Counter[str], list[str]]:
    """Outcomes of these cases of each kind, and defects."""
    outcomes: Counter[str] = Counter()
    defects = []
    for number in cases:
        for kind in KINDS:
            data = make_case(kind, seed, number)
            try:
                with tempfile.TemporaryDirectory(prefix="catdog-fuzz-") as folder:
                    outcomes[f"{kind}: {run_case(kind, data, Path(folder))}"] += 1
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                defects.append(f"{kind} {number}: {error!r} ({last.name}, line {last.lineno})")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}.{kind}").write_bytes(data)
    return outcomes, defects


def main() -> None:
    """Fuzz and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_inputs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    outcomes: Counter[str] = Counter()
    defects: list[str] = []
    number = 0
    while time.monotonic() < deadline:
        some, found = fuzz(arguments.seed, range(number, number + 10), arguments.keep)
        outcomes += some
        defects += found
        number += 10
    record = {"cases": number * len(KINDS), "outcomes": dict(sorted(outcomes.items()))}
    print(json.dumps({**record, "defects": defects}, indent=2))
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    main()
