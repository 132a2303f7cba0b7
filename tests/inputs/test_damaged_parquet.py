"""Damage in a Parquet footer, byte by byte: pyarrow ends the process over some of it."""

from __future__ import annotations

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz import thrift
from catdog.errors import UserInputError
from catdog.inputs import SourceLimits, list_images, parquet_footer
from catdog.results import part_files

LISTS = """
import sys
from pathlib import Path
import pyarrow as pa
from catdog import inputs
from catdog.errors import CatdogError
path = Path(sys.argv[1])

def look():
    try:
        batches = list(inputs.list_images([str(path)], inputs.SourceLimits()))
    except CatdogError:
        return None
    rows = pa.Table.from_batches(batches, inputs.PLAN_SCHEMA)
    return list(inputs.read_images(rows, inputs.SourceLimits(), 1))
"""
FOOTERS = """
import sys
from pathlib import Path
from benchmarks.fuzz import thrift
from catdog.errors import UserInputError
from catdog.inputs import SourceLimits, list_images, parquet_footer
from catdog.results import part_files
path = Path(sys.argv[1])

def look():
    with path.open("rb") as file:
        part_files.read_footer(file)
"""
DAMAGE = """
data = path.read_bytes()
for at in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data) - 8):
    for bits in (1, 4, 8):
        path.write_bytes(data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :])
        look()
print("alive")
"""


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


RESULT = {"uri": "a", "label": "cat", "scores": [1.0], "model": "m"}


def test_counts_of_levels_that_are_not_right(tmp_path):
    """Arrow ends the process where it is asked for such a column's place; it is not."""
    stream = io.BytesIO()
    pq.write_table(pa.table({"bytes": [b"image"]}), stream)
    data = stream.getvalue()
    assert data.count(b"\x19\x26\x00\x02") == 1  # a list of two numbers: no null, one value
    length = int.from_bytes(data[-8:-4], "little")
    body = data[:-8].replace(b"\x19\x26\x00\x02", b"\x19\x36\x00\x02\x00")
    path = tmp_path / "a.parquet"
    path.write_bytes(body + (length + 1).to_bytes(4, "little") + data[-4:])
    program = LISTS + "print(*[each.code.value for each in look() or []])"
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "unreadable\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "program"),
    [
        (pa.table({"bytes": [b"image"]}), LISTS),
        (pa.table({"image": pa.array([{"path": "a.jpg"}], IMAGE)}), LISTS),
        (pa.table({"uri": ["a.jpg"], "label": [1]}), LISTS),
        (pa.Table.from_pylist([RESULT], part_files.SCHEMA), FOOTERS),
    ],
    ids=["bytes", "images", "uris", "results"],
)
def test_no_damage_ends_the_process(tmp_path, table, program):
    """Rows, a refusal, or no whole file: whatever a bit of the footer is turned into."""
    path = tmp_path / "a.parquet"
    stamp = '{"revision":1,"run":"","fresh":1,"uris":"","labels":{},"errors":{},"models":["m"]}'
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"catdog": stamp}), stream)
    path.write_bytes(stream.getvalue())
    done = subprocess.run(
        [sys.executable, "-c", program + DAMAGE, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize("column", [IMAGE, pa.string()], ids=["images", "uris"])
def test_a_page_is_not_believed(tmp_path, column):
    """One that claims two gigabytes takes none of the driver's memory."""
    values = [{"path": "a.jpg"}] if column == IMAGE else ["a.jpg"]
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(values, column)}), stream, compression="none")
    data = stream.getvalue()
    size = thrift.numbers(data, 4)[2]  # its type, its length uncompressed, its length
    claimed = b"\xfc\xff\xff\xff\x0f"
    path = tmp_path / "a.parquet"
    path.write_bytes(data[: size.start] + claimed + data[size.end :])
    measured = (
        "look()\n"  # ru_maxrss would be the parent's, which is this whole suite's
        "peak_kib = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "assert int(peak_kib) < 1 << 20"
    )
    done = subprocess.run(
        [sys.executable, "-c", LISTS + measured, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        (b"", "length is wrong"),
        (b"\x19\xfc\xff\xff\xff\xff\x0f", "ends too early"),  # a list longer than the file
        (b"\x18\x7f", "ends too early"),  # text longer than the file
        (b"\x1c" * 100_000, "too deep"),
        (b"\x16" + b"\xff" * 100_000, "number in the footer is too long"),
        (b"\x1f", "footer is damaged"),  # of no type
        (b"\x49\x1c\x19\x1c\x16\x02\0\0\0", "column is not described"),
        (b"\x49\x18\x01a\0", "not a Parquet footer"),  # text in place of row groups
    ],
)
def test_footers_that_are_none(flaw, said):
    """Lists, text and structures without end, numbers without end or of no column."""
    file = io.BytesIO(b"PAR1" + flaw + len(flaw).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(parquet_footer.DamagedError, match=said):
        list(parquet_footer.chunks(file))


@pytest.mark.parametrize("length", [6, 1 << 31, (1 << 32) - 1])
def test_a_footer_longer_than_its_file(length):
    """Nothing is read before the file's start."""
    file = io.BytesIO(b"PAR1\0" + length.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(parquet_footer.DamagedError, match="length is wrong"):
        list(parquet_footer.chunks(file))


def test_a_footer_longer_than_any(monkeypatch):
    """However large the file is."""
    monkeypatch.setattr(parquet_footer, "_MOST_BYTES", 1 << 10)
    file = io.BytesIO(bytes(1 << 12) + (1 << 11).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(parquet_footer.DamagedError, match="length is wrong"):
        list(parquet_footer.chunks(file))


@pytest.mark.parametrize("number", [-1, 1 << 63, 1 << 70, b"1", None, {}])
def test_numbers_of_a_footer_are_of_int64(number):
    """And not below nothing."""
    with pytest.raises(parquet_footer.DamagedError, match="number in the footer is wrong"):
        parquet_footer._number(number)


@pytest.mark.parametrize("encoded", [b"\x04", b"\x08", b"\x7e"], ids=["2", "4", "63"])
def test_rows_that_do_not_add_up_are_damage(tmp_path, encoded):
    """A footer that counts other rows than its columns have: none is lost without a word."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"bytes": [b"1", b"2", b"3"], "name": ["a", "b", "c"]}), path)
    data = path.read_bytes()
    at = data.index(b"\x16\x06\x19\x1c")  # 3 rows, then the row groups
    path.write_bytes(data[: at + 1] + encoded + data[at + 2 :])
    with pytest.raises(UserInputError, match="it is not a Parquet table, or it is damaged"):
        list(list_images([str(path)], SourceLimits()))


def test_a_sound_footer():
    """As pyarrow reads it."""
    table = pa.table(
        {"a": [1, None, 3], "b": pa.array([{"c": None}] * 3, pa.struct([("c", pa.int8())]))}
    )
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=2)
    found = [(chunk.path, chunk.values, chunk.nulls) for chunk in parquet_footer.chunks(stream)]
    assert found == [("a", 2, 1), ("b.c", 2, 2), ("a", 1, 0), ("b.c", 1, 1)]
