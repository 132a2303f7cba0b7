"""Numbers in a job's own records that do not fit each other: refused, named, never believed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz import folders, thrift
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
        {"images": [(1 << 20) + 1]},
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


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"job": "another"}, "belongs to two jobs"),
        ({"revised": [0, 0], "images": [64, 64]}, "it does shards again that are none"),
        ({"revised": [2], "images": [64]}, "it does shards again that are none"),
        ({"revised": [0, 1], "images": [64]}, "its shards or their files are none"),
        ({}, ""),
        ({"revised": [1], "images": [64]}, ""),
    ],
)
def test_a_second_generation_fits_the_first(plan, fields, said):
    """It is of the same job, and does each of its shards again once at most."""
    assert plan.shards == 2
    path = Path(plan.output.removeprefix("file://"), plans.index_name(1))
    second = json.loads(path.read_text()) | {"number": 2, "first_shard": 2} | fields
    path.with_name(Path(plans.index_name(2)).name).write_text(json.dumps(second))
    if not said:
        assert plans.read(plan.output).generation == 2
        return
    with pytest.raises(CatdogError, match=said):
        plans.read(plan.output)


def test_shards_done_again_are_those_of_earlier_generations(plan):
    """A first generation does none again."""
    change(plan, revised=[0], images=[90, 90])
    with pytest.raises(CatdogError, match="it does shards again that are none"):
        plans.read(plan.output)


@pytest.mark.parametrize("images", [89, 91, 1 << 20])
def test_entries_are_as_many_as_the_plan_says(plan, images):
    """A shard's file that has others is not this plan's."""
    change(plan, images=[images])
    found = plans.read(plan.output)
    with pytest.raises(CatdogError, match="its entries are not those of the plan"):
        found.read_shard(0)


def claims(path, rows):
    """Copies of a Parquet file; in each, one number of its footer that was `rows` is 2 ** 30."""
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for span in thrift.numbers(data, footer):
        if data[span.start : span.end] == bytes([2 * rows & 127 | 128, 2 * rows >> 7]):
            end = data[footer : span.start] + b"\x80\x80\x80\x80\x08" + data[span.end : -8]
            yield data[:footer] + end + len(end).to_bytes(4, "little") + b"PAR1"


def test_row_groups_have_the_rows_of_their_file(plan):
    """Arrow takes memory for what they claim, so that is looked at before a row is read."""
    work, images = part_files.begin(plan, 0, present=False), plan.shard_images[0]
    rows = folders.rows_of(work.entries, [folders.OUTCOME] * images)
    part_files.finish(work, rows, labels=folders.LABELS, run="a")
    path = Path(plan.output.removeprefix("file://"), plan.part_name(0))
    assert part_files.read_footer(path).counts.images == images
    told = 0
    for damaged in claims(path, images):
        metadata = pq.read_metadata(pa.BufferReader(damaged))
        found = part_files.read_footer(pa.BufferReader(damaged))
        if metadata.row_group(0).num_rows != images or metadata.num_rows != images:
            told += 1
            assert found is None
            path.write_bytes(damaged)
            before = pa.default_memory_pool().max_memory()
            with pytest.raises(damage.DamagedError, match="its rows are not those of the plan"):
                part_files.read_part(plan, 0)
            assert pa.default_memory_pool().max_memory() - before < 64 << 20
    assert told == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": {"cat": -1}},
        {"errors": {"empty": -1}},
        {"errors": {"empty": 1.5}},
        {"labels": {"cat": True}},
        {"labels": 7},
        {"models": [7]},
        {"fresh": "x"},
        {"revision": None},
    ],
    ids=str,
)
def test_counts_in_a_footer_are_numbers_of_images(tmp_path, fields):
    """A part file with others is no whole one: it is made again."""
    sound = {"revision": 1, "run": "a", "fresh": 2, "uris": "", "models": ["m"]}
    sound |= {"labels": {"cat": 2}, "errors": {}}
    for content, whole in ((sound, True), (sound | fields, False)):
        table = pa.table({"uri": ["a", "b"]}).replace_schema_metadata(
            {"catdog": json.dumps(content)}
        )
        pq.write_table(table, tmp_path / "part.parquet")
        assert (part_files.read_footer(tmp_path / "part.parquet") is not None) == whole


def test_entries_claim_as_many_as_there_are(plan):
    """Likewise for the plan's own files."""
    name, _ = plan.generations[0].file_of(0)
    path = Path(plan.output.removeprefix("file://"), plans.PLAN_FOLDER, name)
    for damaged in claims(path, plan.shard_images[0]):
        path.write_bytes(damaged)
        plans.open_plan_file.cache_clear()
        before = pa.default_memory_pool().max_memory()
        if pq.read_metadata(path).row_group(0).num_rows != plan.shard_images[0]:
            with pytest.raises(CatdogError, match="its entries are not those of the plan"):
                plan.read_shard(0)
            assert pa.default_memory_pool().max_memory() - before < 64 << 20
            break
    else:
        raise AssertionError("no number of rows was changed")


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
    images = plan.shard_images[0]
    rows = pa.table({"uri": ["a"] * images, "label": ["cat"] * images})
    path = Path(plan.output.removeprefix("file://"), plan.part_name(0))
    pq.write_table(rows, path)
    with pytest.raises(damage.DamagedError, match=f"{path.name} is damaged.* has no column"):
        part_files.read_part(plan, 0, columns)
    assert part_files.read_part(plan, 0, ["uri", "scores"])["uri"].to_pylist() == ["a"] * images
