"""The part files as their own ledger, without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from catdog import inputs as sources
from catdog import storage
from catdog.errors import CatdogError
from catdog.pixels import OUTCOME_SCHEMA
from catdog.results import part_files, plans

LABELS = ("cat", "dog")


def entries(count: int, start: int = 0) -> pa.RecordBatch:
    rows = [
        {"uri": f"file:///x/{number}.jpg", "name": f"{number}.jpg", "codec": "file"}
        for number in range(start, start + count)
    ]
    return pa.RecordBatch.from_pylist(rows, sources.PLAN_SCHEMA)


@pytest.fixture
def plan(tmp_path):
    return plans.write(tmp_path.as_uri(), [entries(50), entries(50, 50)])


def rows_of(plan, shard, rejected=(), scores=None):
    table = plan.read_shard(shard)
    count = table.num_rows
    outcome = pa.Table.from_pylist(
        [
            {"error": "truncated", "error_detail": "cut off"}
            if number in rejected
            else {"width": 4, "height": 3, "format": "JPEG", "size": 9}
            for number in range(count)
        ],
        OUTCOME_SCHEMA,
    )
    if scores is None:
        scores = np.tile(np.array([[0.25, 0.75]], np.float32), (count, 1))
    return part_files.build_rows(
        table["uri"], outcome, scores, labels=LABELS, min_probability=0.0, model="f" * 64
    )


@pytest.mark.parametrize("images", [1, 31, 32, 33, 5000, 70_000])
def test_plan_keeps_every_entry_once_in_order(tmp_path, images):
    """Shards hold all entries in the order of listing, and none has more than 2,048."""
    batches = (entries(min(10_000, images - at), at) for at in range(0, images, 10_000))
    written = plans.write(tmp_path.as_uri(), batches)
    plan = plans.read(tmp_path.as_uri())
    assert plan == written
    assert plan.images == sum(plan.shard_images) == images
    assert max(plan.shard_images) <= 2048
    uris = [
        uri for shard in range(plan.shards) for uri in plan.read_shard(shard)["uri"].to_pylist()
    ]
    assert uris == [f"file:///x/{number}.jpg" for number in range(images)]


def test_plan_without_its_index_is_no_plan(tmp_path):
    """A planner that was killed leaves nothing that a later run would take for a plan."""

    def broken():
        yield entries(3000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plans.write(tmp_path.as_uri(), broken())
    assert plans.read(tmp_path.as_uri()) is None


def test_identical_listing_has_identical_plan(tmp_path):
    """Two planners of the same listing agree on the names of all result files."""
    one = plans.write((tmp_path / "a").as_uri(), [entries(40)])
    two = plans.write((tmp_path / "b").as_uri(), [entries(40)])
    other = plans.write((tmp_path / "c").as_uri(), [entries(41)])
    assert one.identifier == two.identifier != other.identifier


def test_second_planner_takes_the_plan_of_the_first(tmp_path):
    """Two drivers that plan at once work on one plan; other images are refused."""
    first = plans.write(tmp_path.as_uri(), [entries(40)])
    assert plans.write(tmp_path.as_uri(), [entries(40)]) == first
    with pytest.raises(CatdogError, match="other images"):
        plans.write(tmp_path.as_uri(), [entries(41)])
    assert plans.read(tmp_path.as_uri()).read_shard(0)["uri"].to_pylist()[0] == "file:///x/0.jpg"


def stream(count: int, name: str) -> pa.RecordBatch:
    rows = [
        {"uri": f"tar://{n}::{name}", "name": str(n), "container": name, "codec": "tar.gz"}
        for n in range(count)
    ]
    return pa.RecordBatch.from_pylist(rows, sources.PLAN_SCHEMA)


def test_neighbours_in_a_stream_are_one_workers(tmp_path):
    """A stream is passed through by few workers, but by as many as there is work for."""
    batches = [entries(130), stream(1024, "file:///a.tar.gz"), stream(64, "file:///b.tar.gz")]
    plans.write(tmp_path.as_uri(), [*batches, stream(30, "file:///c.tar.gz"), entries(80, 130)])
    plan = plans.read(tmp_path.as_uri())
    # Of the shards of 64, the third begins before the first stream; two streams begin in one each.
    assert plan.shard_images[:20] == (64,) * 20
    assert plan.streams == ((3, 16),)
    todo = list(range(plan.shards))
    tasks = plan.tasks(todo, workers=1)
    assert [shard for task in tasks for shard in task] == todo
    assert [task for task in tasks if len(task) > 1] == [
        [n, n + 1, n + 2, n + 3] for n in (3, 7, 11, 15)
    ]
    assert max(map(len, plan.tasks(todo, workers=2))) == 2
    assert plan.tasks(todo, workers=4) == [[shard] for shard in todo]
    assert plan.tasks([4, 9, 5], workers=1) == [[4], [9], [5]]
    assert plan.tasks([], workers=1) == []


def test_rows_have_the_contracts_columns(plan, tmp_path):
    """Rejected rows carry a reason and no label; classified ones the label of the best score."""
    part_files.write_part(plan, 0, rows_of(plan, 0, rejected={1}), LABELS)
    table = pq.read_table(tmp_path / part_files.part_name(plan.identifier, 0))
    assert table.schema.equals(part_files.SCHEMA)
    assert part_files.labels_of(table.schema) == LABELS
    good, bad = table.slice(0, 1).to_pylist()[0], table.slice(1, 1).to_pylist()[0]
    assert (good["label"], good["probability"], good["scores"]) == ("dog", 0.75, [0.25, 0.75])
    assert (bad["label"], bad["probability"], bad["scores"]) == (None, None, None)
    assert (bad["error"], bad["error_detail"]) == ("truncated", "cut off")


def test_label_below_the_wanted_probability_is_uncertain(plan):
    """The probability stays what it was; only the label says that it is too low."""
    table = plan.read_shard(0)
    scores = np.tile(np.array([[0.45, 0.55]], np.float32), (table.num_rows, 1))
    outcome = pa.Table.from_pylist([{"width": 1}] * table.num_rows, OUTCOME_SCHEMA)
    rows = part_files.build_rows(
        table["uri"], outcome, scores, labels=LABELS, min_probability=0.6, model="f"
    )
    assert set(rows["label"].to_pylist()) == {"uncertain"}
    assert rows["probability"][0].as_py() == pytest.approx(0.55)


def test_the_folder_is_one_dataset(plan, tmp_path):
    """Readers that take the folder see the rows and nothing of the bookkeeping."""
    for shard in range(plan.shards):
        part_files.write_part(plan, shard, rows_of(plan, shard), LABELS)
    part_files.write_json(plan.output, part_files.RUN_FILE, {"a": 1})
    assert pa.dataset.dataset(tmp_path).count_rows() == 100
    assert pq.read_table(tmp_path).num_rows == 100


def test_a_torn_file_was_never_written(plan, tmp_path):
    """A file cut off anywhere, or with too few rows, does not count as done."""
    for shard in range(plan.shards):
        part_files.write_part(plan, shard, rows_of(plan, shard), LABELS)
    victim = tmp_path / part_files.part_name(plan.identifier, 1)
    whole = victim.read_bytes()
    for content in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1]):
        victim.write_bytes(content)
        assert set(part_files.count_parts(plan)) == set(range(plan.shards)) - {1}
    pq.write_table(rows_of(plan, 1).slice(1), victim)
    assert 1 not in part_files.count_parts(plan)
    part_files.write_part(plan, 1, rows_of(plan, 1), LABELS)
    assert part_files.total(part_files.count_parts(plan).values()).images == 100


def test_a_shard_takes_exactly_its_rows(plan):
    """A worker that lost or doubled a row cannot write its shard."""
    with pytest.raises(CatdogError, match="rows for"):
        part_files.write_part(plan, 0, rows_of(plan, 0).slice(1), LABELS)


def test_files_of_another_plan_are_seen(plan, tmp_path):
    """Part files that this plan does not name would double rows for a reader: they are reported."""
    part_files.write_part(plan, 0, rows_of(plan, 0), LABELS)
    assert part_files.foreign_parts(plan, storage.list_names(plan.output)) == []
    (tmp_path / "part-0000000-0123456789ab.parquet").write_bytes(b"")
    strangers = part_files.foreign_parts(plan, storage.list_names(plan.output))
    assert strangers == ["part-0000000-0123456789ab.parquet"]


def test_replaced_rows_keep_their_places(plan):
    """Trying rejected images again changes their rows and no other."""
    before = rows_of(plan, 0, rejected={0, 5, 7})
    again = before["error"].is_valid()
    new = rows_of(plan, 0).take([0, 5, 7])
    after = part_files.replace_rows(before, again, new)
    assert after["uri"].to_pylist() == before["uri"].to_pylist()
    assert after["error"].null_count == after.num_rows


def test_json_is_readable_whatever_the_names(tmp_path):
    """Records survive names that no encoding likes."""
    part_files.write_json(tmp_path.as_uri(), "_run.json", {"name": "a\udcffb é"})
    assert json.loads((tmp_path / "_run.json").read_text())["name"].startswith("a")


PLANNING = """
import sys
from pathlib import Path
from catdog import inputs as sources
from catdog.results import plans
plan = plans.write(sys.argv[2], sources.list_images([sys.argv[1]], sources.SourceLimits()))
print(plan.images, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is read from /proc")
def test_planning_takes_flat_memory(tmp_path):
    """Nothing of an image stays in the driver but the 8 bytes that find it again (docs/scale.md)."""
    peaks = {}
    for images in (50_000, 450_000):
        uris = [f"s3://crawl/{number // 1000:06d}/{number:010d}.jpg" for number in range(images)]
        pq.write_table(pa.table({"uri": uris}), tmp_path / f"{images}.parquet")
        output = (tmp_path / f"plan-{images}").as_uri()
        told = subprocess.run(
            [sys.executable, "-c", PLANNING, str(tmp_path / f"{images}.parquet"), output],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        planned, peaks[images] = map(int, told.split())
        assert planned == images
    # A row of the plan takes some hundred bytes as Arrow has it, 40 MB for so many more.
    assert peaks[450_000] - peaks[50_000] < 20 * 1024
