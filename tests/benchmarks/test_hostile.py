"""What `python -m benchmarks.hostile` draws, through a job's code without Ray."""

from __future__ import annotations

import contextlib

from benchmarks import hostile
from benchmarks.fuzz import folders
from catdog import inputs
from catdog.pixels import DecodeLimits, Decoder, Preprocessing
from catdog.results import Folder, drafts, part_files, plans


def test_each_costs_its_own_row(tmp_path):
    """A row for each image of each archive, the sound pictures among them decoded."""
    images, output = [str(tmp_path / "images")], str(tmp_path / "results")
    sound = hostile.draw(tmp_path / "images", archives=15, pictures_=40, seed=3)
    results, limits = Folder((tmp_path / "results").as_uri()), inputs.SourceLimits()
    assert drafts.draft(results, inputs.list_images(images, limits, once=False)).commit("job")
    plan = plans.read(results)
    with contextlib.closing(Decoder(Preprocessing(32, 32), DecodeLimits(), limits, 64)) as decoder:
        for shard in range(plan.shards):
            work = part_files.begin(plan, shard, present=False)
            batches = decoder.decode(work.entries)
            outcomes = [row for batch in batches for row in batch.outcomes.to_pylist()]
            rows = folders.rows_of(work.entries, outcomes)
            part_files.finish(work, rows, labels=folders.LABELS, run="a")
    assert plan.images > 100
    assert hostile.missing(images, output, sound) == []
    assert hostile.missing(images, output, sound + 1) != []
