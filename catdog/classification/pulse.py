"""Heartbeats of classifying workers: the driver sees their progress, and which of them are silent.

gRPC notices silence, too, but with Ray's defaults only after minutes, and nobody can change those on
somebody else's cluster. A shard that begins a second time was lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from catdog.runtime import nodes

if TYPE_CHECKING:
    from collections.abc import Callable

_BEAT_EVERY_S = 3.0
# A worker beats beside its work; one that is stopped, stuck, or cut off does not.
_SILENT_AFTER_S = 30.0
_LOOK_EVERY_S = 3.0
SHOW_EVERY_S = 10.0

CONNECTION_BROKE = "the connection to its worker broke"
NODE_LOST = "its node was lost"
SILENT = "its worker was silent"
WORKER_ENDED = "its worker ended"


class Beat(NamedTuple):
    """A worker's message, every few seconds.

    Attributes:
        worker: identifies its process.
        node: Ray's name of its node.
        shard: the current one; None between two.
        attempt: identifies this start of the shard.
        images: number of images done of its task, which may have several shards.
    """

    worker: str
    node: str
    shard: int | None
    attempt: str
    images: int


class State(NamedTuple):
    """The state of all workers.

    Attributes:
        images: done of tasks that are not finished.
        retried: shards that began again, by the cause.
        silent: processes of workers to end; each is in one answer only.
    """

    images: int
    retried: dict[str, int]
    silent: list[nodes.ActorProcess]


@dataclass
class _Worker:
    process: nodes.ActorProcess
    beat: Beat
    heard_at: float = field(default_factory=time.monotonic)


class Board:
    """An actor beside the driver that receives the workers' messages.

    Args:
        alive_nodes: gives the ids of the nodes that the head counts as alive.
    """

    def __init__(self, alive_nodes: Callable[[], set[str]]) -> None:
        self._alive_nodes = alive_nodes
        self._workers: dict[str, _Worker] = {}
        self._begun: dict[int, Beat] = {}
        self._silent: set[str] = set()
        self._retried: Counter[str] = Counter()
        self._metrics: _Metrics | None = None
        self._planned = self._finished = 0

    def show(self, planned: int, finished: int) -> None:
        """Export to Prometheus from now on: images planned, and images of finished shards."""
        self._planned, self._finished = planned, finished
        self._metrics = self._metrics or _Metrics()
        self._export()

    def _export(self) -> None:
        if self._metrics is not None:
            done = min(self._planned, self._finished + self._unfinished())
            with contextlib.suppress(Exception):  # the job does not depend on it
                self._metrics.show(self._planned, done, self._retried)

    def _unfinished(self) -> int:
        """Images done of unfinished tasks."""
        return sum(each.beat.images for each in self._workers.values())

    def beat(self, beat: Beat, process: list[nodes.ActorProcess]) -> None:
        """Take a worker's message."""
        if beat.worker in self._silent:
            return  # sent before its end
        self._workers[beat.worker] = _Worker(process[0], beat)
        if beat.shard is None:
            return
        before = self._begun.get(beat.shard)
        if before is None or before.attempt != beat.attempt:
            self._begun[beat.shard] = beat
            if before is not None:
                self._retried[self._cause(before, beat)] += 1

    def _cause(self, before: Beat, now: Beat) -> str:
        if before.worker == now.worker:
            return CONNECTION_BROKE
        self._workers.pop(before.worker, None)
        if before.node not in self._alive_nodes():
            return NODE_LOST
        return SILENT if before.worker in self._silent else WORKER_ENDED

    def state(self) -> State:
        """Until now."""
        now = time.monotonic()
        silent = {
            name: each
            for name, each in self._workers.items()
            if now - each.heard_at > _SILENT_AFTER_S
        }
        for name in silent:
            del self._workers[name]
        self._silent.update(silent)
        self._export()
        return State(
            self._unfinished(), dict(self._retried), [each.process for each in silent.values()]
        )


class _Metrics:
    """A job's metrics for Prometheus, through Ray's metrics on the driver's node."""

    def __init__(self) -> None:
        from ray.util import metrics

        self._planned = metrics.Gauge("catdog_planned_images", "Images in the plan.")
        self._done = metrics.Gauge("catdog_done_images", "Images that are done.")
        self._left = metrics.Gauge("catdog_left_images", "Images that are still to be done.")
        self._retried = metrics.Counter(
            "catdog_retried_shards", "Shards that were lost and began again.", ("cause",)
        )
        self._told: Counter[str] = Counter()

    def show(self, planned: int, done: int, retried: Counter[str]) -> None:
        """Set all of them."""
        self._planned.set(planned)
        self._done.set(done)
        self._left.set(planned - done)
        for cause, shards in (retried - self._told).items():
            self._retried.inc(shards, {"cause": cause})
        self._told = Counter(retried)


def start_board() -> Any:
    """A `Board`; it ends when nobody holds it any more."""
    import ray

    return ray.remote(**nodes.beside_driver())(Board).remote(nodes.alive)


class Pulse:
    """A worker's side: sends a message every few seconds, from its own thread."""

    def __init__(self, board: Any) -> None:
        import ray

        context = ray.get_runtime_context()
        self._process, self._board = nodes.ActorProcess.own(), board
        # An actor that is started again keeps its id; its process has another one.
        self._beat = Beat(context.get_worker_id(), context.get_node_id(), None, "", 0)
        threading.Thread(target=self._go_on, name="pulse", daemon=True).start()

    def begin(self, shard: int) -> None:
        """A shard begins."""
        self._beat = self._beat._replace(shard=shard, attempt=uuid.uuid4().hex)
        self._tell()

    def add(self, images: int) -> None:
        """This many more images of the task are done."""
        self._beat = self._beat._replace(images=self._beat.images + images)

    def end(self) -> None:
        """The shard is finished."""
        self._beat = self._beat._replace(shard=None)
        self._tell()

    def told(self) -> None:
        """The task is finished, and its row reports its images to the driver."""
        self._beat = self._beat._replace(images=0)
        self._tell()

    def _go_on(self) -> None:
        while True:
            self._tell()
            time.sleep(_BEAT_EVERY_S)

    def _tell(self) -> None:
        # In a list, since Ray would wait for a bare handle.
        self._board.beat.remote(self._beat, [self._process])


class Watch:
    """The driver's side, beside the watch over the nodes.

    Attributes:
        retried: shards that were lost and began again, by the cause.

    Args:
        board: the actor that receives the workers' messages.
        over_nodes: gives up when the nodes are gone.
        show: gets, every ten seconds, the number of images done of unfinished tasks.
        on_retried: gets the number of retried shards and the latest cause, when it grows.
    """

    def __init__(
        self,
        board: Any,
        over_nodes: nodes.NodeWatch,
        show: Callable[[int], None],
        on_retried: Callable[[int, str], None],
    ) -> None:
        self._board, self._nodes = board, over_nodes
        self._show, self._on_retried = show, on_retried
        self._looked = self._shown = time.monotonic()
        self._question: Any = None
        self.retried: Counter[str] = Counter()

    def check(self) -> None:
        """Call it often: ends silent workers, whose shards Ray gives to others.

        Raises:
            CatdogError: the nodes or the head have been away for too long.
        """
        import ray

        self._nodes.check()
        now = time.monotonic()
        if self._question is None:
            if now - self._looked > _LOOK_EVERY_S:
                self._looked, self._question = now, self._board.state.remote()
            return
        if ray.wait([self._question], timeout=0)[0]:
            self._learn()

    def finish(self) -> None:
        """Ask once more; `check` may not have looked since the last shard."""
        self._question = self._board.state.remote()
        self._learn()

    def _learn(self) -> None:
        import ray

        question, self._question = self._question, None
        try:
            state: State = ray.get(question, timeout=10)
        except ray.exceptions.RayError:
            return  # the job does not depend on it
        for process in state.silent:
            process.end()
        more = Counter(state.retried) - self.retried
        if more:
            self.retried += more
            self._on_retried(self.retried.total(), next(iter(more)))
        now = time.monotonic()
        if (state.images or state.retried) and now - self._shown > SHOW_EVERY_S:
            self._shown = now
            self._show(state.images)
