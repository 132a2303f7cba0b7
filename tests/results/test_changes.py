"""What a later listing has besides the plan: in memory or over files, the same."""

from __future__ import annotations

from contextlib import closing

import pyarrow as pa
import pytest

from catdog.inputs import PLAN_SCHEMA
from catdog.results import buckets, changes, drafts, plans
from tests.ledgers import write_plan


def entries(numbers, stamp="1"):
    rows = [
        {"uri": f"file:///x/{n}.jpg", "name": f"{n}.jpg", "codec": "file", "stamp": stamp}
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows, PLAN_SCHEMA)


@pytest.fixture(params=["in memory", "in files"])
def _memory(request, monkeypatch):
    if request.param == "in files":
        monkeypatch.setattr(buckets, "_MEMORY_BYTES", 100)
        monkeypatch.setattr(changes, "_MEMORY_ROWS", 10)
        monkeypatch.setattr(changes, "_RANGE", 128)


def uris(batches):
    return [uri for batch in batches for uri in batch.column("uri").to_pylist()]


def expected(numbers):
    return [f"file:///x/{n}.jpg" for n in numbers]


@pytest.mark.usefixtures("_memory")
def test_new_changed_and_gone(tmp_path):
    """Each is counted and found where it is; what is the same is nowhere."""
    plan = write_plan(tmp_path.as_uri(), [entries(range(1000))])
    listed = [entries(range(500, 900)), entries(range(900, 910), "2"), entries(range(910, 1005))]
    with closing(
        changes.Changes(plan, [*listed, entries(range(2000, 2003)), entries([2001])])
    ) as found:
        assert found.counts == changes.Counts(1000, 8, 10, 500, repeated=1)
        assert uris(found.new_entries()) == expected([*range(1000, 1005), *range(2000, 2003)])
        revised = dict(found.revised([], drop_gone=False))
    fresh = []
    for shard, table in revised.items():
        assert table["uri"].equals(plan.read_shard(shard)["uri"])
        fresh += table.filter(table["fresh"]).to_pylist()
    assert [row["uri"] for row in fresh] == expected(range(900, 910))
    assert {row["stamp"] for row in fresh} == {"2"}


@pytest.mark.usefixtures("_memory")
def test_what_is_gone_may_go(tmp_path):
    """With `drop_gone` the shards hold what stays, in its order."""
    plan = write_plan(tmp_path.as_uri(), [entries(range(300))])
    stays = [n for n in range(300) if n % 7]
    with closing(changes.Changes(plan, [entries(stays)])) as found:
        assert uris(found.new_entries()) == []
        revised = found.revised([], drop_gone=True)
        draft = drafts.draft(plan.folder, [], before=plan, revised=revised)
    assert draft.commit(plan.job)
    later = plans.read(plan.folder)
    kept = [
        uri for shard in range(later.shards) for uri in later.read_shard(shard)["uri"].to_pylist()
    ]
    assert kept == expected(stays)
    assert later.images == len(stays)


def test_a_stamp_that_nobody_knows_is_no_change(tmp_path):
    """Of lists and tables, whose images are not looked at before they are read."""
    plan = write_plan(tmp_path.as_uri(), [entries(range(10), None), entries(range(10, 20))])
    listed = [entries(range(10), "1"), entries(range(10, 20), None)]
    with closing(changes.Changes(plan, listed)) as found:
        assert found.counts == changes.Counts(20, 0, 0, 0)


def test_rejected_and_changed_in_one_shard(tmp_path):
    """Both are to be done, once each, the changed one by its new entry."""
    plan = write_plan(tmp_path.as_uri(), [entries(range(60))])
    marks = pa.array([n in {3, 5} for n in range(60)]).to_numpy(zero_copy_only=False)
    with closing(
        changes.Changes(plan, [entries(range(5)), entries([5], "2"), entries(range(6, 60))])
    ) as found:
        list(found.new_entries())
        ((shard, table),) = found.revised([(0, marks)], drop_gone=True)
    assert shard == 0
    fresh = table.filter(table["fresh"])
    assert fresh["uri"].to_pylist() == expected([3, 5])
    assert fresh["stamp"].to_pylist() == ["1", "2"]


def test_rows_with_columns_of_their_own_each_count(tmp_path):
    """A URI as often as a table names it; a row whose values are others now is changed."""

    def rows(*pairs):
        batch = entries([number for number, _ in pairs], None)
        values = pa.array([{"shelf": shelf} for _, shelf in pairs])
        return batch.append_column(pa.field("kept", values.type), values)

    plan = write_plan(tmp_path.as_uri(), [rows((1, 7), (2, 7), (1, 8), (1, 9))])
    assert plan.images == 4
    with closing(changes.Changes(plan, [rows((1, 7), (2, 7), (1, 8), (1, 9))])) as found:
        assert found.counts == changes.Counts(4, 0, 0, 0)
    # The second of three is another one, one of the others is gone, one is named once more.
    listed = rows((3, 1), (1, 7), (1, 0), (2, 7), (2, 5))
    with closing(changes.Changes(plan, [listed])) as found:
        assert found.counts == changes.Counts(4, 2, 1, 1)
        new = pa.Table.from_batches(found.new_entries())
        assert new["kept"].to_pylist() == [{"shelf": 1}, {"shelf": 5}]
        [(_, table)] = found.revised([], drop_gone=True)
    assert table["kept"].to_pylist() == [{"shelf": 7}, {"shelf": 7}, {"shelf": 0}]
    assert table["fresh"].to_pylist() == [False, False, True]
