"""Damage in a Parquet footer, byte by byte: pyarrow ends the process over some of it."""

from __future__ import annotations

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz import thrift
from catdog.inputs import parquet_footer
from catdog.results import part_files

LISTS = """
import sys
from pathlib import Path
from catdog import inputs
from catdog.errors import CatdogError
path = Path(sys.argv[1])

def look():
    try:
        list(inputs.list_images([str(path)], inputs.SourceLimits()))
    except CatdogError:
        pass
"""
FOOTERS = """
import sys
from pathlib import Path
from benchmarks.fuzz import thrift
from catdog.inputs import parquet_footer
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "program"),
    [
        (pa.table({"image": pa.array([{"path": "a.jpg"}], IMAGE)}), LISTS),
        (pa.table({"uri": ["a.jpg"], "label": [1]}), LISTS),
        (pa.Table.from_pylist([RESULT], part_files.SCHEMA), FOOTERS),
    ],
    ids=["images", "uris", "results"],
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
        "look()\nimport resource\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20"  # KiB
    )
    done = subprocess.run(
        [sys.executable, "-c", LISTS + measured, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "flaw", [b"", b"\x19\xfc\xff\xff\xff\xff\x0f", b"\x1c" * 40, b"\x16" + b"\xff" * 12]
)
def test_footers_that_are_none(flaw):
    """A list that is longer than the file, structures without end, a number without end."""
    file = io.BytesIO(b"PAR1" + flaw + len(flaw).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(parquet_footer.DamagedError):
        list(parquet_footer.chunks(file))


def test_a_sound_footer():
    """As pyarrow reads it."""
    table = pa.table(
        {"a": [1, None, 3], "b": pa.array([{"c": None}] * 3, pa.struct([("c", pa.int8())]))}
    )
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=2)
    found = [(chunk.path, chunk.values, chunk.nulls) for chunk in parquet_footer.chunks(stream)]
    assert found == [("a", 2, 1), ("b.c", 2, 2), ("a", 1, 0), ("b.c", 1, 1)]
