"""Few images, classified in the driver's own process: Ray would take longer to start than they do."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from catdog import machine
from catdog.classification import actors
from catdog.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from catdog.classification.config import ClassifyConfig
    from catdog.classification.pipeline import Tally
    from catdog.classification.telling import Assignment
    from catdog.model import Arithmetic, folders
    from catdog.observer import Observer
    from catdog.results import Survey

# What one process does in about the seconds that Ray's start and its workers' take.
MAX_IMAGES = 2000
MAX_BYTES = 64 << 20
_BYTES_WHERE_UNKNOWN = 128 << 10  # of an image whose list does not tell
_SHOW_EVERY_S = 10.0


def size_of(entries: pa.Table | pa.RecordBatch) -> int:
    """Bytes of the images of these entries."""
    sizes = pc.fill_null(entries.column("size"), _BYTES_WHERE_UNKNOWN)
    return int(pc.sum(sizes).as_py() or 0)


def are_few(images: int, size: int) -> bool:
    """Whether so many images of so many bytes are."""
    return images <= MAX_IMAGES and size <= MAX_BYTES


def may_run(config: ClassifyConfig) -> bool:
    """Whether nothing asks for Ray: an address, a number of workers, a cluster at hand, a GPU."""
    asked = config.address or os.environ.get("RAY_ADDRESS") or config.workers
    ray = sys.modules.get("ray")
    return not (asked or machine.has_gpu() or (ray is not None and ray.is_initialized()))


def run(
    assignment: Assignment,
    model: folders.Model,
    found: Survey,
    todo: Sequence[int],
    observer: Observer,
    tally: Tally,
) -> None:
    """Have shards done, one after the other.

    Args:
        assignment: what to do with each shard.
        model: loaded.
        found: what the folder holds.
        todo: numbers of the shards.
        observer: sees how far it is.
        tally: counts what was done.

    Raises:
        CatdogError: the job failed.
    """
    refuse_unable(assignment.arithmetic)
    observer.phase("classifying in this process")
    shown = _Shown(observer, assignment.plan.images, found, tally)
    scorer = actors.Scorer(model, assignment, machine.usable_cpus(), None)
    with actors.decoder_for(model.metadata, assignment) as decoder:
        lane = actors.Lane(scorer, decoder, assignment, shown)
        for task in assignment.plan.tasks(todo, 1):
            for shard in task:
                told = lane.classify(shard, present=bool(found.present[shard]))
                tally.add(told)
                observer.shard(
                    told.shard, told.rows, told.rejected, told.ended_at - told.started_at
                )
                shown.finished(told.rows, told.rejected)


def refuse_unable(arithmetic: Arithmetic) -> None:
    """Say at the start that this machine cannot compute as the job began."""
    if not actors.arithmetic_is_possible(arithmetic):
        raise UserInputError(
            "this machine cannot compute in bfloat16, in which the job began; go on where it "
            "began, or name another --output folder and --precision float32"
        )


class _Shown:
    """Tells the observer how far the lane is: after each shard, and every ten seconds within one."""

    def __init__(self, observer: Observer, total: int, found: Survey, tally: Tally) -> None:
        self._observer, self._total, self._tally = observer, total, tally
        self._done, self._rejected = found.counts.images, int(found.rejected.sum())
        self._unfinished = 0
        self._started = self._told = time.monotonic()

    def begin(self, shard: int) -> None:
        del shard

    def add(self, images: int) -> None:
        self._unfinished += images
        if time.monotonic() - self._told > _SHOW_EVERY_S:
            self._tell()

    def end(self) -> None:
        self._unfinished = 0

    def finished(self, images: int, rejected: int) -> None:
        """A shard is."""
        self._done += images
        self._rejected += rejected
        self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        done = min(self._done + self._unfinished, self._total)
        rate = self._tally.images_per_s or self._unfinished / (self._told - self._started)
        self._observer.progress(done, self._total, self._rejected, rate)
