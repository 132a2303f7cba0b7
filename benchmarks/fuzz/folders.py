"""Folders with a file that is damaged: a model's, and a job's results."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pyarrow as pa

from benchmarks.fuzz.mutation import damage, odd_json
from benchmarks.fuzz.tables import damaged_parquet
from catdog.inputs import PLAN_SCHEMA
from catdog.model import folders as models
from catdog.pixels import OUTCOME_SCHEMA, Preprocessing
from catdog.results import Folder, drafts, ledger, part_files, plans

if TYPE_CHECKING:
    import random

LABELS = ("cat", "dog")
MODEL = "f" * 64
OUTCOME: dict[str, Any] = {"width": 4, "height": 3, "format": "JPEG", "size": 9}
QUESTION = {"model": MODEL, "min_probability": 0.0}
_TRAINING = {"recipe": {"validation": 0.1, "test": 0.1}, "best": {"val_accuracy": 0.9}}


def rows_of(entries: pa.Table, outcomes: list[dict[str, Any]]) -> pa.Table:
    """Result rows of entries, as if a network had scored them."""
    scores = np.tile(np.array([[0.25, 0.75]], np.float32), (len(outcomes), 1))
    table = pa.Table.from_pylist(outcomes, OUTCOME_SCHEMA)
    return part_files.build_rows(
        entries["uri"], table, scores, labels=LABELS, min_probability=0.0, model=MODEL
    )


def model_folder(chance: random.Random) -> dict[str, bytes]:
    """A model folder, its metadata changed; its fingerprint and digests often right for that."""
    files = {models.KERAS_FILE: b"keras", "model.xml": b"<net/>", "model.bin": bytes(64)}
    metadata = models.describe(
        files,
        labels=LABELS,
        preprocessing=Preprocessing(32, 32),
        architecture="compact",
        training=_TRAINING,
    )
    content: Any = json.loads(metadata.to_json())
    for _ in range(chance.choice((0, 1, 1, 2))):
        content = odd_json(content, chance)
    if chance.random() < 0.7:
        _sign(content)
    text = json.dumps(content).encode()
    if chance.random() < 0.1:
        text = chance.choice((b"[" * 100_000, b"\xff\xfe{", b"", b"9" * 5000, b"null", b"{}"))
    elif chance.random() < 0.1:
        text = damage(text, chance)
    if chance.random() < 0.1:
        del files[chance.choice(sorted(files))]
    return {**files, models.METADATA_FILE: text}


def _sign(content: Any) -> None:
    """Give changed metadata the fingerprint that a stranger would compute."""
    if not isinstance(content, dict):
        return
    names = ("format_version", "labels", "preprocessing", "files")
    identity = {name: content.get(name) for name in names}
    try:
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        content["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    except (TypeError, ValueError):
        return


@functools.cache
def _sound_results() -> dict[str, bytes]:
    """The files of results of two generations, the second with a shard done again."""
    numbers = itertools.count()
    # Names have tokens of chance in them, and a case is to follow from its seed.
    same = mock.patch("secrets.token_hex", lambda size: f"{next(numbers):0{2 * size}x}")
    with tempfile.TemporaryDirectory() as place, same:
        folder = Folder(Path(place).as_uri())
        ledger.begin(folder, QUESTION, {"started_at": "2026"})
        first = drafts.draft(folder, [entries(0, 100)], planned_at="2026", counts={"new": 100})
        assert first.commit(ledger.identity(QUESTION))
        _finish(folder)
        plan = plans.read(folder)
        assert plan is not None
        again = (0, plan.read_shard(0))
        second = drafts.draft(folder, [entries(100, 40)], before=plan, revised=[again])
        assert second.commit(plan.job)
        _finish(folder)
        plan = plans.read(folder)
        assert plan is not None
        ledger.publish(plan, {"planned": 140, "classified": 140})
        paths = [path for path in Path(place).rglob("*") if path.is_file()]
        return {str(path.relative_to(place)): path.read_bytes() for path in sorted(paths)}


def entries(start: int, count: int) -> pa.RecordBatch:
    """Images of a listing."""
    rows = [
        {"uri": f"file:///x/{at}.jpg", "name": f"cat/{at}.jpg", "label": "cat", "codec": "file"}
        for at in range(start, start + count)
    ]
    return pa.RecordBatch.from_pylist(rows, PLAN_SCHEMA)


def _finish(folder: Folder) -> None:
    plan = plans.read(folder)
    assert plan is not None
    for shard in range(plan.shards):
        work = part_files.begin(plan, shard, present=True)
        if work is not None:
            rows = rows_of(work.entries, [OUTCOME] * work.entries.num_rows)
            timing = {"started_at": 1.0, "ended_at": 2.0, "read_s": 0.5}
            part_files.finish(work, rows, labels=LABELS, run="a", timing=timing)


def results_folder(chance: random.Random) -> dict[str, bytes]:
    """A job's results folder, one of its files changed or gone."""
    files = copy.copy(_sound_results())
    kinds = ("_run.json", "_summary.json", "_plan/0001.json", "_plan/0002.json")
    plan_files = [name for name in files if name.startswith("_plan/") and ".parquet" in name]
    parts = [name for name in files if name.startswith("part-")]
    for _ in range(chance.choice((1, 1, 2))):
        place = chance.randrange(6)
        name = [*kinds, chance.choice(plan_files), chance.choice(parts)][place]
        if chance.random() < 0.05 or not files.get(name):
            files.pop(name, None)
        elif name.endswith(".json") and chance.random() < 0.8:
            try:
                content = odd_json(json.loads(files[name]), chance)
            except (ValueError, RecursionError):
                continue
            files[name] = json.dumps(content).encode()
        elif name.endswith(".parquet"):
            files[name] = damaged_parquet(files[name], chance)
        else:
            files[name] = chance.choice((b"[" * 100_000, b"", b"null", b"[]", b"{}", b"\xff"))
    return files
