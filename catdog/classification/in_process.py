"""Small jobs, classified in the driver's own process: Ray's start would take longer.

Each CPU has a lane, as a worker of Ray has one: a child process that decodes, and a thread that scores
and writes. The driver's thread follows them.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from catdog import machine
from catdog.classification import actors, pulse
from catdog.classification.pipeline import Progress
from catdog.classification.telling import cannot_compute
from catdog.errors import UserInputError
from catdog.pixels import AbandonedError
from catdog.runtime import nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from catdog.classification.config import ClassifyConfig
    from catdog.classification.pipeline import Tally
    from catdog.classification.telling import Assignment, Told
    from catdog.model import Arithmetic, folders
    from catdog.observer import Observer
    from catdog.pixels import Decoder
    from catdog.results import Survey

# About half a minute of two cores. What takes longer gets Ray's workers, whose death costs a shard.
MAX_IMAGES = 50_000
MAX_BYTES = 1 << 30
_BYTES_WHERE_UNKNOWN = 128 << 10  # of an image whose list does not say
_LANE_IMAGES = 1000  # of fewer a further lane takes longer to start than it saves
_MAX_LANES = 16  # all run Python in one interpreter


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
    """Classify shards.

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
    lanes = _Lanes(assignment, model, found, todo)
    try:
        for told in lanes.each(progress):
            progress.finished(told)
    finally:
        lanes.end()


def refuse_unable(arithmetic: Arithmetic) -> None:
    """Refuse at the start if this machine cannot compute as the job began."""
    if not actors.arithmetic_is_possible(arithmetic):
        raise UserInputError(cannot_compute("this machine", "continue it where it began"))


class _Lanes:
    """The lanes of a job, each with a thread of its own; they begin at once.

    Args:
        assignment, model, found, todo: as of `run`.
    """

    def __init__(
        self, assignment: Assignment, model: folders.Model, found: Survey, todo: Sequence[int]
    ) -> None:
        self._assignment, self._model, self._found = assignment, model, found
        images = sum(assignment.plan.shard_images[shard] for shard in todo)
        count = max(1, min(machine.usable_cpus(), _MAX_LANES, images // _LANE_IMAGES))
        if assignment.arithmetic.engine != "openvino":
            count = 1  # Keras' settings are the process's
        self._threads = max(1, machine.usable_cpus() // count)  # of each engine
        self._tasks = deque(assignment.plan.tasks(todo, count))
        self._told: queue.SimpleQueue[Told | BaseException | None] = queue.SimpleQueue()
        self._signs = [_Signs() for _ in range(count)]
        self._lanes = [
            threading.Thread(target=self._work, args=(signs,), name="catdog-lane", daemon=True)
            for signs in self._signs
        ]
        for lane in self._lanes:
            lane.start()

    def each(self, progress: Progress) -> Iterator[Told]:
        """The finished shards, as they come; now and then `progress` is told of the unfinished ones."""
        working = len(self._lanes)
        while working:
            try:
                told = self._told.get(timeout=pulse.SHOW_EVERY_S)
            except queue.Empty:
                progress.unfinished(sum(signs.images for signs in self._signs))
                continue
            if isinstance(told, BaseException):
                raise told
            if told is None:
                working -= 1
            else:
                yield told

    def end(self) -> None:
        """Have all lanes stop, whatever they are at; returns when they have."""
        self._tasks.clear()
        for signs in self._signs:
            signs.stop()
        for lane in self._lanes:
            lane.join()

    def _work(self, signs: _Signs) -> None:
        try:
            decoder = actors.decoder_for(self._model.metadata, self._assignment)
            with contextlib.closing(decoder):
                signs.watch(decoder)
                scorer = actors.Scorer(self._model, self._assignment, self._threads, None)
                lane = actors.Lane(scorer, decoder, self._assignment, signs)
                while task := self._next():
                    for shard in task:
                        present = bool(self._found.present[shard])
                        self._told.put(lane.classify(shard, present=present))
        except AbandonedError:
            pass
        except BaseException as error:
            self._told.put(error)
        self._told.put(None)

    def _next(self) -> list[int] | None:
        with contextlib.suppress(IndexError):
            return self._tasks.popleft()
        return None


class _Signs:
    """How far a lane is within a shard; and the way to stop it.

    Attributes:
        images: done of the shard.
    """

    def __init__(self) -> None:
        self.images = 0
        self._decoder: Decoder | None = None
        self._stopped = False

    def watch(self, decoder: Decoder) -> None:
        """The lane's decoder, which `stop` abandons."""
        self._decoder = decoder
        if self._stopped:
            decoder.abandon()

    def stop(self) -> None:
        """Have the lane stop where it is."""
        self._stopped = True
        if self._decoder is not None:
            self._decoder.abandon()

    def begin(self, shard: int) -> None:
        del shard
        self.images = 0

    def add(self, images: int) -> None:
        self.images += images

    def end(self) -> None:
        self.images = 0
