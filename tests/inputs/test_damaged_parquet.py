"""Damage in a Parquet footer, byte by byte: pyarrow ends the process over some of it."""

from __future__ import annotations

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
