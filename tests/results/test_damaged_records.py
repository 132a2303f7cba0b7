"""Numbers in a job's own records that do not fit each other: refused, named, never believed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import CatdogError
from catdog.inputs import PLAN_SCHEMA
from catdog.results import damage, ledger, part_files, plans
from tests.ledgers import write_plan


@pytest.fixture
def plan(tmp_path):
    rows = [{"uri": f"file:///{at}.jpg", "name": f"{at}.jpg", "codec": "file"} for at in range(90)]
    return write_plan(tmp_path.as_uri(), [pa.RecordBatch.from_pylist(rows, PLAN_SCHEMA)])


def change(plan, **fields):
    """A plan's latest generation with other values."""
    path = Path(plan.output.removeprefix("file://"), plans.index_name(plan.generation))
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"images": [-1]},
        {"images": [1 << 63]},
        {"images": [1.5]},
        {"images": [True]},
        {"revised": [0]},
        {"revised": [1 << 40], "images": [90, 90]},
        {"revised": [-1], "images": [90, 90]},
        {"counts": {"new": -1}},
        {"counts": {"new": 1 << 64}},
        {"first_shard": 1},
        {"first_shard": -1},
        {"number": 2},
        {"token": "../../etc/passwd"},
        {"token": "a" * 65},
        {"token": ""},
        {"job": 7},
        {"inputs": ["\ud800"]},
        {"streams": [[0]]},
        {"streams": [["a", "b"]]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_generation_whose_numbers_do_not_fit(plan, fields):
    """One line that names its file."""
    change(plan, **fields)
    with pytest.raises(CatdogError, match=r"0001\.json is damaged"):
        plans.read(plan.output)


def test_shards_done_again_are_those_of_earlier_generations(plan):
    """A first generation does none again."""
    change(plan, revised=[0], images=[90, 90])
    with pytest.raises(CatdogError, match="it does shards again that are none"):
        plans.read(plan.output)


@pytest.mark.parametrize("images", [89, 91, 1 << 40])
def test_entries_are_as_many_as_the_plan_says(plan, images):
    """A shard's file that has others is not this plan's."""
    change(plan, images=[images])
    found = plans.read(plan.output)
    with pytest.raises(CatdogError, match="its entries are not those of the plan"):
        found.read_shard(0)


def test_entries_have_the_columns_of_a_plan(plan):
    """A file of another kind in its place is damage."""
    name, _ = plan.generations[0].file_of(0)
    path = Path(plan.output.removeprefix("file://"), plans.PLAN_FOLDER, name)
    pq.write_table(pa.table({"uri": ["a"] * plan.shard_images[0]}), path)
    plans.open_plan_file.cache_clear()
    with pytest.raises(CatdogError, match="its entries are not those of the plan"):
        plan.read_shard(0)


@pytest.mark.parametrize("generation", [2, 1 << 70, "1", None, True])
def test_a_summary_of_a_generation_that_nobody_planned(plan, generation):
    """It is not waited for."""
    ledger.publish(plan, {"planned": 90})
    path = Path(plan.output.removeprefix("file://"), ledger.SUMMARY_FILE)
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"generation": generation}))
    with pytest.raises(CatdogError, match="is damaged"):
        ledger.read_summary(plan)


def test_entries_that_are_gone(plan):
    """A line that says so, also where only their digests are asked for."""
    number, group = 1, 0
    name, _ = plan.generations[number - 1].file_of(group)
    Path(plan.output.removeprefix("file://"), plans.PLAN_FOLDER, name).unlink()
    for ask in (plan.uris_digest, plan.read_shard):
        with pytest.raises(CatdogError, match=f"{name} is gone: the plan is incomplete"):
            ask(0)


@pytest.mark.parametrize("columns", [None, ["format"], ["uri", "size"]])
def test_results_without_a_column_that_all_have(plan, columns):
    """They are damaged, whoever asks for it; of other columns nothing is said."""
    rows = pa.table({"uri": ["a"], "label": ["cat"]})
    path = Path(plan.output.removeprefix("file://"), plan.part_name(0))
    pq.write_table(rows, path)
    with pytest.raises(damage.DamagedError, match=f"{path.name} is damaged.* has no column"):
        part_files.read_part(plan, 0, columns)
    assert part_files.read_part(plan, 0, ["uri", "scores"])["uri"].to_pylist() == ["a"]
