"""What `docs/scale.md` says of the cost of a job is what was measured, by a command that runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import bookkeeping
from catdog.inputs import SourceLimits
from catdog.pixels import DecodeLimits
from catdog.pixels.child import memory_bound


def test_tables_are_what_was_measured():
    """The document's tables are those of `benchmarks/bookkeeping.json`."""
    text = bookkeeping.DOCUMENT.read_text()
    found = json.loads(bookkeeping.FOUND.read_text())
    assert bookkeeping.with_tables(text, found) == text
    for table in bookkeeping.tables(found).values():
        assert table in text


def test_the_stated_memory_is_the_enforced_one():
    """The bound that the documents state follows from the default limits."""
    bound = memory_bound(DecodeLimits(), SourceLimits())
    text = (bookkeeping.DOCUMENT.parent / "operations.md").read_text()
    assert f"at most {bound / 2**30:.2f} GiB" in text


@pytest.mark.slow
def test_a_small_measurement(tmp_path):
    """The benchmark of the bookkeeping runs, and its counts add up."""
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.bookkeeping", "--found", str(found)]
    command += ["--scratch", str(tmp_path), "--images", "3000", "--listings", "500"]
    command += ["--growth", "3000"]
    subprocess.run(command, check=True, timeout=300, cwd=bookkeeping.ROOT)
    told = json.loads(found.read_text())
    job = told["jobs"]["3000"]
    assert job["shards"] + 4 == job["files"]
    assert job["resume_shards"] == 1
    assert told["growth"]["3000"]["new"] == 30
    assert {kind: each["images"] for kind, each in told["listings"].items()} == dict.fromkeys(
        ("files", "tar", "zip", "100 tars", "100 tars, one core"), 500
    )
