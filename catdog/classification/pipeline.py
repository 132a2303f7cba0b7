"""The Ray Data job that classifies shards, with new workers if an earlier one hangs."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catdog.classification import actors, pulse
from catdog.classification.telling import Told
from catdog.errors import counted
from catdog.results import part_files
from catdog.runtime import nodes, ray_quirks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from catdog.classification.config import ClassifyConfig
    from catdog.classification.telling import Assignment
    from catdog.model import folders
    from catdog.observer import Observer
    from catdog.results import Plan, Survey

_TRIES = 3  # each with new workers, after one has hung


@dataclass
class Tally:
    """The reports of this run's workers, added up."""

    images: int = 0
    bytes_read: int = 0
    stages_s: Counter[str] = field(default_factory=Counter)
    first_start: float = math.inf
    first_image: float = math.inf
    last_end: float = 0.0
    retried: Counter[str] = field(default_factory=Counter)

    def add(self, told: Told) -> None:
        """Count a finished shard."""
        self.images += told.images
        self.bytes_read += told.bytes_read
        for stage in ("read", "decode", "predict", "write"):
            self.stages_s[stage] += getattr(told, f"{stage}_s")
        self.first_start = min(self.first_start, told.started_at)
        self.first_image = min(self.first_image, told.first_at)
        self.last_end = max(self.last_end, told.ended_at)

    @property
    def images_per_s(self) -> float:
        """From the first shard's start to the last one's end, without the workers' start-up."""
        return self.images / max(self.last_end - self.first_start, 1e-3) if self.images else 0.0


class Progress:
    """Reports a run to the observer: after each shard, and within unfinished tasks.

    Args:
        observer: sees it.
        plan: of the job.
        found: what the folder holds.
        tally: counts what is finished.

    Attributes:
        done: images of finished shards, those of earlier runs too.
    """

    def __init__(self, observer: Observer, plan: Plan, found: Survey, tally: Tally) -> None:
        self._observer, self._total, self._tally = observer, plan.images, tally
        self._shown = 0  # the unfinished images of a lost worker are no more
        self._started = time.monotonic()
        self.begin(found)

    def begin(self, found: Survey) -> None:
        """Workers begin with what the folder holds."""
        self.done, self._rejected = found.counts.images, int(found.rejected.sum())

    def finished(self, told: Told) -> None:
        """A shard is."""
        self._tally.add(told)
        self.done += told.rows
        self._rejected += told.rejected
        seconds = told.ended_at - told.started_at
        self._observer.shard(told.shard, told.rows, told.rejected, seconds)
        self._show(self.done, self._tally.images_per_s)

    def unfinished(self, images: int) -> None:
        """So many are done of what the workers have not told yet."""
        rate = self._tally.images_per_s or images / (time.monotonic() - self._started)
        self._show(min(self.done + images, self._total), rate)

    def _show(self, done: int, images_per_s: float) -> None:
        self._shown = max(self._shown, done)
        self._observer.progress(self._shown, self._total, self._rejected, images_per_s)


def run(
    assignment: Assignment,
    config: ClassifyConfig,
    model: folders.Model,
    found: Survey,
    todo: Sequence[int],
    observer: Observer,
    tally: Tally,
) -> None:
    """Classify shards; Ray is connected.

    Args:
        assignment: what workers do with each shard.
        config: of the job.
        model: loaded.
        found: what the folder holds.
        todo: numbers of the shards.
        observer: sees how far it is.
        tally: adds up the workers' reports.

    Raises:
        CatdogError: the job failed.
    """
    from ray.exceptions import ActorUnavailableError

    plan = assignment.plan
    progress = Progress(observer, plan, found, tally)
    with ray_quirks.plain_errors():
        for tries_left in reversed(range(_TRIES)):
            try:
                if todo:
                    _work(assignment, config, model, found, todo, observer, tally, progress)
                break
            except ActorUnavailableError:
                # Its process exists but does not answer: Ray continues neither with nor without it.
                if not tries_left:
                    raise
                tally.retried[pulse.SILENT] += 1
                observer.phase("a worker does not answer; continuing with new ones")
                found = part_files.survey(plan)
                todo = found.todo(plan.shard_images)
                progress.begin(found)


def _work(
    assignment: Assignment,
    config: ClassifyConfig,
    model: folders.Model,
    found: Survey,
    todo: Sequence[int],
    observer: Observer,
    tally: Tally,
    progress: Progress,
) -> None:
    """One Ray Data job over the shards of `todo`."""
    nodes.wait_for_room(1, cpus=1, label=config.node_label, on_wait=observer.phase)
    gpu = assignment.arithmetic.device == "gpu"
    board = pulse.start_board()
    batches = _stages(assignment, config, model, found, todo, board, observer, gpu=gpu)
    over_nodes = nodes.NodeWatch(
        1,
        cpus=int(not gpu),
        gpus=int(gpu),
        label=config.node_label,
        on_lost=observer.phase,
    )
    watch = pulse.Watch(board, over_nodes, progress.unfinished, observer.retried)
    board.show.remote(assignment.plan.images, progress.done)
    try:
        for batch in nodes.watched(batches, watch.check):
            for row in batch.to_pylist():
                progress.finished(Told.from_row(row))
                board.show.remote(assignment.plan.images, progress.done)
        watch.finish()
    finally:
        tally.retried += watch.retried


def _stages(
    assignment: Assignment,
    config: ClassifyConfig,
    model: folders.Model,
    found: Survey,
    todo: Sequence[int],
    board: Any,
    observer: Observer,
    *,
    gpu: bool,
) -> Iterator[pa.Table]:
    """The Ray Data job; yields the workers' reports of finished shards.

    Everything happens during iteration, requests to the cluster included, so that it can be watched.

    No operator needs more logical CPUs than there are, and the last one of the GPU form needs none:
    no cluster, however small, can stall for lack of a CPU.
    """
    import ray
    from ray.data import ActorPoolStrategy

    shape: dict[str, Any] = {"gpus": 1} if gpu else {"cpus": 1}
    shape["label"] = label = config.node_label
    if not nodes.autoscales():  # which brings nodes for the other workers while the first ones work
        needed = min(config.workers or 1, len(todo))
        nodes.wait_for_room(needed, **shape, on_wait=observer.phase)
    nodes.wait_until_free(1, **shape, on_wait=observer.phase, timeout_s=config.wait_s)
    workers = min(config.workers or max(1, nodes.room(**shape)), len(todo))
    observer.phase(f"starting {counted(workers, 'worker')}")
    stage = functools.partial(ray_quirks.map_batches, node_label=label, batch_format="pyarrow")
    # Unlike `from_arrow`, it starts no tasks, which would take more CPUs than the workers asked for.
    shards = ray.data.from_blocks(
        [
            pa.table({"shard": task, "present": found.present[task]}, actors.TASK_SCHEMA)
            for task in assignment.plan.tasks(todo, workers)
        ]
    )
    shared_model = ray.put(model)
    # If a number was asked for, missing workers wait for nodes; else the pool takes what joins.
    largest = workers if config.workers else len(todo)
    pool = ActorPoolStrategy(min_size=workers, max_size=largest)
    if gpu:
        decoders = max(1, min(nodes.room(cpus=1, label=label), len(todo)))
        decoded = stage(
            shards,
            actors.DecodeShards,
            fn_constructor_args=(model.metadata, assignment, board),
            compute=ActorPoolStrategy(min_size=1, initial_size=decoders, max_size=len(todo)),
            batch_size=None,  # a task, as it is
            num_cpus=1,
        )
        told = stage(
            decoded,
            actors.ScoreShard,
            fn_constructor_args=(shared_model, assignment),
            compute=pool,
            batch_size=1,
            num_cpus=0,
            num_gpus=1,
        )
    else:
        told = stage(
            shards,
            actors.ClassifyShards,
            fn_constructor_args=(shared_model, assignment, board),
            compute=pool,
            batch_size=None,
            num_cpus=1,
        )
    yield from told.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
