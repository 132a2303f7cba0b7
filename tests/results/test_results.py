"""The plan and the part files as their own ledger, without Ray."""

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

from catdog.errors import CatdogError, UserInputError
from catdog.inputs import PLAN_SCHEMA, Skips
from catdog.pixels import OUTCOME_SCHEMA
from catdog.results import Folder, buckets, drafts, ledger, part_files, plans
from tests.ledgers import write_json, write_part, write_plan

LABELS = ("cat", "dog")
MODEL = "f" * 64


def entries(count: int, start: int = 0) -> pa.RecordBatch:
    rows = [
        {"uri": f"file:///x/{number}.jpg", "name": f"{number}.jpg", "codec": "file"}
        for number in range(start, start + count)
    ]
    return pa.RecordBatch.from_pylist(rows, PLAN_SCHEMA)


@pytest.fixture
def plan(tmp_path):
    return write_plan(tmp_path.as_uri(), [entries(50), entries(50, 50)])


def rows_of(plan, shard, rejected=(), scores=None, model=MODEL):
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
        table["uri"], outcome, scores, labels=LABELS, min_probability=0.0, model=model
    )


@pytest.mark.parametrize("images", [1, 31, 32, 33, 5000, 70_000])
def test_plan_keeps_every_entry_once_in_order(tmp_path, images):
    """Shards hold all entries in the order of listing, and none has more than 2,048."""
    batches = (entries(min(10_000, images - at), at) for at in range(0, images, 10_000))
    plan = write_plan(tmp_path.as_uri(), batches)
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
        drafts.draft(Folder(tmp_path.as_uri()), broken())
    assert plans.read(tmp_path.as_uri()) is None


@pytest.mark.slow
def test_the_identifier_is_of_values(tmp_path):
    """The same entries have the same identifier in any chunks, other entries another one."""

    def identifier(*batches):
        draft = drafts.draft(Folder((tmp_path / "results").as_uri()), batches)
        draft.discard()
        return draft.generation.identifier

    whole = entries(1000)
    chunked = [
        [whole],
        [entries(10), entries(990, 10)],
        [whole.slice(0, 333), whole.slice(333, 1), whole.slice(334)],
        [pa.RecordBatch.from_pylist(whole.to_pylist()[at : at + 100], PLAN_SCHEMA) for at in range(0, 1000, 100)],
    ]  # fmt: skip
    assert len({identifier(*batches) for batches in chunked}) == 1
    halves = [whole.slice(0, 500), whole.slice(500)]
    assert len({identifier(half) for half in [*halves, whole, whole.slice(1)]}) == 4
    shifted = whole.to_pylist()
    shifted[7] |= {"offset": 512, "container": "file:///x.tar", "codec": "tar"}
    assert identifier(pa.RecordBatch.from_pylist(shifted, PLAN_SCHEMA)) != identifier(whole)


@pytest.mark.parametrize("memory_bytes", [100, 1 << 25])
def test_each_image_is_planned_once(tmp_path, monkeypatch, memory_bytes):
    """What a listing names again is left out where it comes later, and counted; no file stays."""
    monkeypatch.setattr(buckets, "_MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(buckets, "RANGE", 100)
    skips = Skips()
    batches = [entries(500), entries(300, 400), entries(3), entries(2, 900), entries(1, 900)]
    draft = drafts.draft(Folder(tmp_path.as_uri()), batches, skips=skips)
    assert draft.commit("a job")
    plan = plans.read(tmp_path.as_uri())
    uris = [
        uri for shard in range(plan.shards) for uri in plan.read_shard(shard)["uri"].to_pylist()
    ]
    assert uris == [f"file:///x/{number}.jpg" for number in [*range(700), 900, 901]]
    assert skips.counts() == {"named more than once": 104}
    assert len(list((tmp_path / "_plan").iterdir())) == 2


def test_of_two_planners_one_wins(tmp_path):
    """Two drivers that plan at once work on one plan; the other one's files are gone."""
    folder = Folder(tmp_path.as_uri())
    one, two = drafts.draft(folder, [entries(40)]), drafts.draft(folder, [entries(41)])
    assert two.commit("a job")
    assert not one.commit("a job")
    assert plans.read(folder).images == 41
    assert plans.read(folder).read_shard(0)["uri"].to_pylist()[40] == "file:///x/40.jpg"
    assert len(list((tmp_path / "_plan").iterdir())) == 2


def test_a_plan_of_an_earlier_version_is_named(tmp_path):
    """Its results are not gone on with, and not taken for somebody's files."""
    (tmp_path / "_plan").mkdir()
    (tmp_path / "_plan" / "plan.json").write_text("{}")
    with pytest.raises(UserInputError, match="earlier version"):
        plans.read(tmp_path.as_uri())


def stream(count: int, name: str) -> pa.RecordBatch:
    rows = [
        {"uri": f"tar://{n}::{name}", "name": str(n), "container": name, "codec": "tar.gz"}
        for n in range(count)
    ]
    return pa.RecordBatch.from_pylist(rows, PLAN_SCHEMA)


def test_neighbours_in_a_stream_are_one_workers(tmp_path):
    """A stream is passed through by few workers, but by as many as there is work for."""
    batches = [entries(130), stream(1024, "file:///a.tar.gz"), stream(64, "file:///b.tar.gz")]
    batches += [stream(30, "file:///c.tar.gz"), entries(80, 130)]
    plan = write_plan(tmp_path.as_uri(), batches)
    # Of the shards of 64, the third begins before the first stream; two streams begin in one each.
    assert plan.shard_images[:20] == (64,) * 20
    assert plan.generations[0].streams == ((3, 16),)
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


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_many_shards_are_few_tasks_the_last_ones_small(tmp_path, workers):
    """Ray Data's driver keeps something of each task; the last of each worker is a single shard."""
    plan = write_plan(tmp_path.as_uri(), [entries(64)])
    todo = list(range(50_000))
    tasks = plan.tasks(todo, workers)
    assert [shard for task in tasks for shard in task] == todo
    sizes = [len(task) for task in tasks]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) < 500 + 12 * workers
    assert sizes[-2 * workers :] == [1] * (2 * workers)


def test_best_classes_and_thresholds_of_each(plan):
    """The best classes in order, without the column of all scores where it is not wanted."""
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0, 0, 0]], np.float32)
    outcome = pa.Table.from_pylist([{}, {}, {"error": "empty"}], OUTCOME_SCHEMA)
    rows = part_files.build_rows(
        pa.chunked_array([["a", "b", "c"]]),
        outcome,
        scores,
        labels=("cat", "dog", "fox"),
        min_probability=(0.7, 0.6, 2.0),
        model="m",
        top=2,
        all_scores=False,
    )
    assert "scores" not in rows.column_names
    assert rows["label"].to_pylist() == ["cat", "uncertain", None]
    assert rows["top_labels"].to_pylist() == [["cat", "dog"], ["dog", "fox"], None]
    told = rows["top_probabilities"].to_pylist()
    assert told[:2] == [pytest.approx([0.7, 0.2]), pytest.approx([0.5, 0.4])]
    assert told[2] is None


def test_all_classes_of_an_image_are_a_column(plan):
    """Those whose score is not below their threshold; the label stays the most probable one."""
    scores = np.array([[0.7, 0.9, 0.1], [0.1, 0.5, 0.4], [0.3, 0.2, 0], [0, 0, 0]], np.float32)
    outcome = pa.Table.from_pylist([{}, {}, {}, {"error": "empty"}], OUTCOME_SCHEMA)
    rows = part_files.build_rows(
        pa.chunked_array([["a", "b", "c", "d"]]),
        outcome,
        scores,
        labels=("cat", "dog", "fox"),
        min_probability=0.0,
        model="m",
        labels_from=(0.7, 0.5, 0.5),
    )
    assert rows["label"].to_pylist() == ["dog", "dog", "cat", None]
    assert rows["labels"].to_pylist() == [["cat", "dog"], ["dog"], [], None]
    assert rows.schema.field("labels").type == pa.list_(pa.string())


def test_shares_of_cut_pictures_are_a_column_where_asked_for(plan):
    """Of what was decoded the share, null where rejected; else there is no such column."""
    outcome = pa.Table.from_pylist([{"decoded": 0.5}, {"error": "empty"}], OUTCOME_SCHEMA)
    uris = pa.chunked_array([["a", "b"]])
    asked = {"labels": LABELS, "min_probability": 0.0, "model": "m"}
    for decoded in (True, False):
        rows = part_files.build_rows(
            uris, outcome, np.ones((2, 2), np.float32), decoded=decoded, **asked
        )
        assert ("decoded" in rows.column_names) == decoded
    rows = part_files.build_rows(uris, outcome, np.ones((2, 2), np.float32), decoded=True, **asked)
    assert rows["decoded"].to_pylist() == [0.5, None]
    assert rows.schema.field("decoded").type == pa.float32()


def test_embeddings_are_a_column_that_says_what_it_holds(plan, tmp_path):
    """Float16 vectors of one size, null where rejected; kept where rows are replaced."""
    vectors = np.array([[1, 0, 0], [0, 0.5, 0]], np.float16)
    outcome = pa.Table.from_pylist([{}, {"error": "empty"}], OUTCOME_SCHEMA)
    uris = pa.chunked_array([["a", "b"]])
    asked = {"labels": LABELS, "min_probability": 0.0, "model": "m"}
    rows = part_files.build_rows(uris, outcome, np.ones((2, 2), np.float32), vectors, **asked)
    assert rows.schema.field("embedding").type == pa.list_(pa.float16())
    assert rows["embedding"].to_pylist() == [[1, 0, 0], None]
    described = json.loads(rows.schema.metadata[b"embedding"])
    assert described == {"size": 3, "normalisation": "L2"}
    plan = write_plan((tmp_path / "kept").as_uri(), [entries(2)])
    rows = rows.set_column(0, rows.schema.field("uri"), plan.read_shard(0)["uri"])
    assert write_part(plan, 0, rows, LABELS)
    read = part_files.read_part(plan, 0)
    assert read.schema.field("embedding").type == pa.list_(pa.float16())
    assert json.loads(read.schema.metadata[b"embedding"]) == described
    assert part_files.look(plan, 0).models == ("m",)


def test_rows_have_the_contracts_columns(plan, tmp_path):
    """Rejected rows carry a reason and no label; classified ones the label of the best score."""
    write_part(plan, 0, rows_of(plan, 0, rejected={1}), LABELS)
    table = pq.read_table(tmp_path / plan.part_name(0))
    assert table.schema.equals(part_files.SCHEMA)
    assert part_files.labels_of(table.schema) == LABELS
    good, bad = table.slice(0, 1).to_pylist()[0], table.slice(1, 1).to_pylist()[0]
    assert (good["label"], good["probability"], good["scores"]) == ("dog", 0.75, [0.25, 0.75])
    assert (bad["label"], bad["probability"], bad["scores"]) == (None, None, None)
    assert (bad["error"], bad["error_detail"]) == ("truncated", "cut off")


def test_an_image_is_called_what_the_user_calls_it(tmp_path):
    """`uri` is the text of a list or table; `source_uri`, and what readers in here get, opens."""
    batch = entries(3)
    given = pa.array([None, "b/1.jpg", None], pa.string())
    batch = batch.set_column(
        batch.schema.get_field_index("given"), PLAN_SCHEMA.field("given"), given
    )
    plan = write_plan(tmp_path.as_uri(), [batch])
    write_part(plan, 0, rows_of(plan, 0, rejected={2}), LABELS)
    file = pq.read_table(tmp_path / plan.part_name(0))
    opens = [f"file:///x/{number}.jpg" for number in range(3)]
    assert file["uri"].to_pylist() == [opens[0], "b/1.jpg", opens[2]]
    assert file["source_uri"].to_pylist() == [None, opens[1], None]
    assert part_files.read_part(plan, 0, ["uri", "error"])["uri"].to_pylist() == opens
    assert part_files.read_part(plan, 0)["uri"].to_pylist() == opens
    assert part_files.survey(plan).done.all()
    # One is tried again: the rows that stay are called what they were.
    marked = plan.read_shard(0)
    fresh = pa.array([False, False, True])
    marked = marked.set_column(marked.num_columns - 1, plans.ENTRIES_SCHEMA.field("fresh"), fresh)
    again = drafts.draft(plan.folder, [], before=plan, revised=[(0, marked)])
    assert again.commit(plan.job)
    plan = plans.read(plan.folder)
    work = part_files.begin(plan, 0, present=True)
    assert work.entries["uri"].to_pylist() == opens[2:]
    part_files.finish(work, rows_of(plan, 0).slice(2), labels=LABELS, run="")
    file = pq.read_table(tmp_path / plan.part_name(0))
    assert file["uri"].to_pylist() == [opens[0], "b/1.jpg", opens[2]]
    assert file["error"].to_pylist() == [None, None, None]


def test_columns_of_the_users_own_are_the_last_ones(tmp_path):
    """With their types, each row its own, also where one image is two rows of a table."""
    batch = entries(2)
    batch = pa.Table.from_batches([batch, batch.slice(0, 1)]).combine_chunks().to_batches()[0]
    kind = pa.struct([("shelf", pa.int16()), ("tags", pa.list_(pa.string()))])
    values = pa.array([{"shelf": 1, "tags": ["x"]}, None, {"shelf": 3}], kind)
    plan = write_plan(tmp_path.as_uri(), [batch.append_column(pa.field("kept", kind), values)])
    write_part(plan, 0, rows_of(plan, 0, rejected={1}), LABELS)
    file = pq.read_table(tmp_path / plan.part_name(0))
    assert file.column_names[-3:] == ["source_uri", "shelf", "tags"]
    assert file["shelf"].type == pa.int16()
    assert file["shelf"].to_pylist() == [1, None, 3]
    assert file["tags"].to_pylist() == [["x"], None, None]
    assert file["uri"].to_pylist() == [f"file:///x/{number}.jpg" for number in (0, 1, 0)]
    assert part_files.survey(plan).done.all()


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
        write_part(plan, shard, rows_of(plan, shard), LABELS)
    write_json(plan, ledger.RUN_FILE, {"a": 1})
    assert pa.dataset.dataset(tmp_path).count_rows() == 100
    assert pq.read_table(tmp_path).num_rows == 100


def done(plan, model=None):
    return np.flatnonzero(part_files.survey(plan, model).done).tolist()


def test_a_torn_file_was_never_written(plan, tmp_path):
    """A file cut off anywhere, or of another table, does not count as done, and is written again."""
    for shard in range(plan.shards):
        assert write_part(plan, shard, rows_of(plan, shard), LABELS)
    victim = tmp_path / plan.part_name(1)
    whole = victim.read_bytes()
    for content in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1]):
        victim.write_bytes(content)
        assert done(plan) == [0]
    pq.write_table(rows_of(plan, 1).slice(1), victim)
    assert done(plan) == [0]
    assert write_part(plan, 1, rows_of(plan, 1), LABELS)
    assert part_files.survey(plan).counts.images == 100


def test_a_shard_takes_exactly_its_rows(plan):
    """A worker that lost, doubled or exchanged a row cannot write its shard."""
    rows = rows_of(plan, 0)
    with pytest.raises(CatdogError, match="rows for"):
        write_part(plan, 0, rows.slice(1), LABELS)
    doubled = rows.take([0, *range(rows.num_rows - 1)])
    with pytest.raises(CatdogError, match="other images"):
        write_part(plan, 0, doubled, LABELS)


def test_a_file_counts_by_the_images_it_holds(plan, tmp_path):
    """A file with the right name, number of rows and stamp, but another image's row, is not done."""
    write_part(plan, 0, rows_of(plan, 0), LABELS)
    path = tmp_path / plan.part_name(0)
    table = pq.read_table(path)
    part = part_files.look(plan, 0)
    doubled = table.take([0, *range(table.num_rows - 1)])
    stamp = json.loads(table.schema.metadata[b"catdog"]) | {
        "uris": part_files.digest(doubled, ["uri"])
    }
    metadata = table.schema.metadata | {b"catdog": json.dumps(stamp).encode()}
    assert part.fault(plan, 0) is None
    pq.write_table(doubled.replace_schema_metadata(metadata), path)
    found = part_files.survey(plan)
    assert not found.done[0]
    assert "other images" in found.faults[0]


def test_rows_of_another_model_are_seen(plan):
    """The footers' statistics show it: such a file is not done, and is named."""
    write_part(plan, 0, rows_of(plan, 0, model="0" * 64), LABELS)
    write_part(plan, 1, rows_of(plan, 1), LABELS)
    assert done(plan, MODEL) == [1]
    assert "another model" in part_files.survey(plan, MODEL).faults[0]


def test_files_of_another_plan_are_seen(plan, tmp_path):
    """Part files that this plan does not name would double rows for a reader: they are reported."""
    write_part(plan, 0, rows_of(plan, 0), LABELS)
    assert part_files.survey(plan).strangers == []
    (tmp_path / "part-0000000-0123456789ab.parquet").write_bytes(b"")
    assert part_files.survey(plan).strangers == ["part-0000000-0123456789ab.parquet"]


def test_part_names_are_of_one_job(tmp_path):
    """Of two jobs with the same images neither can take the other's files for its own."""
    both = [drafts.draft(Folder((tmp_path / each).as_uri()), [entries(9)]) for each in "ab"]
    assert both[0].commit("a model")
    assert both[1].commit("another model")
    names = {plans.read(draft.folder).part_name(0) for draft in both}
    assert len(names) == 2


def test_who_comes_first_has_the_folder(tmp_path):
    """The record is created, never written over: the second job learns whose folder it is."""
    folder = Folder(tmp_path.as_uri())
    ours, theirs = {"model": "a"}, {"model": "b"}
    assert ledger.begin(folder, ours, {}) == ours
    assert ledger.begin(folder, theirs, {}) == ours
    assert ledger.read_question(folder) == ours


def retried(plan, rejected):
    """The plan with a generation in which these images of shard 0 are to be tried again."""
    entries_of = plan.read_shard(0)
    marks = pa.array([number in rejected for number in range(entries_of.num_rows)])
    again = entries_of.set_column(
        entries_of.schema.get_field_index("fresh"), plans.ENTRIES_SCHEMA.field("fresh"), marks
    )
    draft = drafts.draft(plan.folder, [], before=plan, revised=[(0, again)])
    assert draft.commit(plan.job)
    return plans.read(plan.folder)


def test_replaced_rows_keep_their_places(plan, tmp_path):
    """Trying rejected images again changes their rows and no other."""
    for shard in range(plan.shards):
        write_part(plan, shard, rows_of(plan, shard, rejected={0, 5, 7}), LABELS)
    before = part_files.read_part(plan, 0)
    plan = retried(plan, {0, 5, 7})
    assert done(plan) == [1]
    work = part_files.begin(plan, 0, present=True)
    assert work.entries["uri"].to_pylist() == [f"file:///x/{number}.jpg" for number in (0, 5, 7)]
    new = rows_of(plan, 0).take([0, 5, 7])
    part, ours = part_files.finish(work, new, labels=LABELS, run="a")
    assert (part.revision, part.fresh, ours) == (2, 3, True)
    after = part_files.read_part(plan, 0)
    assert after["uri"].equals(before["uri"])
    assert after["error"].null_count == after.num_rows
    assert pa.dataset.dataset(tmp_path).count_rows() == 100
    assert done(plan) == [0, 1]


def test_who_read_an_older_file_does_not_write(plan):
    """Two workers have the same shard to try again: each image has one row, whoever is second."""
    for shard in range(plan.shards):
        write_part(plan, shard, rows_of(plan, shard, rejected={1, 5}), LABELS)
    plan = retried(plan, {1, 5})
    slow, fast = (part_files.begin(plan, 0, present=True) for _ in range(2))
    rows = rows_of(plan, 0).take([1, 5])
    assert part_files.finish(fast, rows, labels=LABELS, run="fast")[1]
    part, ours = part_files.finish(slow, rows, labels=LABELS, run="slow")
    assert (ours, part.run) == (False, "fast")
    uris = part_files.read_part(plan, 0)["uri"].to_pylist()
    assert uris == [f"file:///x/{number}.jpg" for number in range(len(uris))]
    assert part_files.begin(plan, 0, present=True) is None


def test_who_is_late_changes_nothing(plan):
    """A worker of the first generation, lost and found again, cannot bring its rows back."""
    late = part_files.begin(plan, 0, present=False)
    for shard in range(plan.shards):
        write_part(plan, shard, rows_of(plan, shard, rejected={1}), LABELS)
    again = retried(plan, {1})
    work = part_files.begin(again, 0, present=True)
    part_files.finish(work, rows_of(again, 0).take([1]), labels=LABELS, run="a")
    _, ours = part_files.finish(late, rows_of(plan, 0, rejected={1}), labels=LABELS, run="late")
    assert not ours
    assert part_files.look(again, 0).revision == 2


def test_a_lost_file_is_done_again_whole(plan, tmp_path):
    """Where the rows that were to stay are gone, their images are classified again."""
    for shard in range(plan.shards):
        write_part(plan, shard, rows_of(plan, shard, rejected={1}), LABELS)
    plan = retried(plan, {1})
    (tmp_path / plan.part_name(0)).unlink()
    work = part_files.begin(plan, 0, present=False)
    assert work.entries.num_rows == plan.shard_images[0]
    assert write_part(plan, 0, rows_of(plan, 0), LABELS)
    assert done(plan) == [0, 1]


def test_a_summary_is_of_the_latest_generation(plan):
    """It is taken away when a next generation is, and an earlier one does not come back."""
    ledger.publish(plan, {"planned": 100})
    assert ledger.read_summary(plan)["planned"] == 100
    later = retried(plan, {0})
    assert ledger.read_summary(later) is None
    ledger.publish(plan, {"planned": 100})  # by a driver that was late
    assert plan.folder.read(ledger.SUMMARY_FILE) is None
    ledger.publish(later, {"planned": 100})
    ledger.publish(plan, {"planned": 1})
    assert ledger.read_summary(later)["planned"] == 100


def test_json_is_readable_whatever_the_names(tmp_path):
    """Records survive names that no encoding likes."""
    ledger.begin(Folder(tmp_path.as_uri()), {}, {"name": "a\udcffb é"})
    assert json.loads((tmp_path / "_run.json").read_text())["name"].startswith("a")


PLANNING = """
import sys
from pathlib import Path
from catdog import inputs as sources
from catdog.results import Folder, drafts
draft = drafts.draft(
    Folder(sys.argv[2]),
    sources.list_images([sys.argv[1]], sources.SourceLimits(), once=False),
)
print(sum(draft.generation.images), Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_files_are_looked_at_some_at_a_time(tmp_path):
    """Of a hundred thousand part files, those that wait for their turn are few; all come, in order."""
    taken = []

    def numbers():
        for number in range(5000):
            taken.append(number)
            yield number

    answers = Folder(tmp_path.as_uri()).each(lambda number: -number, numbers())
    assert next(answers) == 0
    assert len(taken) < 2000
    assert [0, *answers] == [-number for number in range(5000)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is read from /proc")
def test_planning_takes_flat_memory(tmp_path):
    """Nothing of an image stays in the driver's memory (docs/scale.md)."""
    peaks = {}
    for images in (900_000, 1_800_000):  # what is read at a time takes its room before
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
    # A row of the plan takes some hundred bytes as Arrow has it, 90 MB for so many more.
    assert peaks[1_800_000] - peaks[900_000] < 45 * 1024
