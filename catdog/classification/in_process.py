"""Small jobs, classified in the driver's own process: Ray's start would take longer."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from catdog import machine
from catdog.classification import actors, pulse
from catdog.classification.pipeline import Progress
from catdog.classification.telling import cannot_compute
from catdog.errors import UserInputError
from catdog.runtime import nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from catdog.classification.config import ClassifyConfig
    from catdog.classification.pipeline import Tally
    from catdog.classification.telling import Assignment
    from catdog.model import Arithmetic, folders
    from catdog.observer import Observer
    from catdog.results import Survey

# What one process can do in about the time that Ray and its workers take to start.
MAX_IMAGES = 2000
MAX_BYTES = 64 << 20
_BYTES_WHERE_UNKNOWN = 128 << 10  # of an image whose list does not say


def size_of(entries: pa.Table | pa.RecordBatch) -> int:
    """Bytes of the images of these entries."""
    sizes = pc.fill_null(entries.column("size"), _BYTES_WHERE_UNKNOWN)
    return int(pc.sum(sizes).as_py() or 0)


def are_few(images: int, size: int) -> bool:
    """Whether this many images and bytes are few enough."""
    return images <= MAX_IMAGES and size <= MAX_BYTES


def may_run(config: ClassifyConfig) -> bool:
    """Whether nothing asks for Ray: an address, a number of workers, a cluster at hand, a GPU."""
    asked = nodes.is_shared(config.address) or config.workers
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
    """Classify shards, one after the other.

    Args:
        assignment: what to do with each shard.
        model: loaded.
        found: what the folder holds.
        todo: numbers of the shards.
        observer: follows the progress.
        tally: counts what was done.

    Raises:
        CatdogError: the job failed.
    """
    refuse_unable(assignment.arithmetic)
    observer.phase("classifying in this process")
    progress = Progress(observer, assignment.plan, found, tally)
    scorer = actors.Scorer(model, assignment, machine.usable_cpus(), None)
    with contextlib.closing(actors.decoder_for(model.metadata, assignment)) as decoder:
        lane = actors.Lane(scorer, decoder, assignment, _Signs(progress))
        for shard in todo:
            progress.finished(lane.classify(shard, present=bool(found.present[shard])))


def refuse_unable(arithmetic: Arithmetic) -> None:
    """Refuse at the start if this machine cannot compute as the job began."""
    if not actors.arithmetic_is_possible(arithmetic):
        raise UserInputError(cannot_compute("this machine", "continue it where it began"))


class _Signs:
    """Shows every ten seconds how far the lane is within a shard."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._images, self._told = progress, 0, time.monotonic()

    def begin(self, shard: int) -> None:
        del shard

    def add(self, images: int) -> None:
        self._images += images
        if time.monotonic() - self._told > pulse.SHOW_EVERY_S:
            self._told = time.monotonic()
            self._progress.unfinished(self._images)

    def end(self) -> None:
        self._images, self._told = 0, time.monotonic()
