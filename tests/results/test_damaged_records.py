"""Numbers in a job's own records that do not fit each other: refused, named, never believed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import CatdogError
from catdog.inputs import PLAN_SCHEMA
from catdog.results import ledger, plans
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
