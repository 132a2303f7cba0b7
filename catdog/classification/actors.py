"""Classification as stages of a Ray Data job: numbers of shards in, part files out.

On CPUs one actor does a shard from bytes to Parquet (`ClassifyShards`, by its `Lane`): its child process
decodes while it scores the batch before. On GPUs the stages are separate (`DecodeShards`, then
`ScoreShard`), so that a GPU never waits for a JPEG and CPU nodes can help.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from catdog.classification.pulse import Pulse
from catdog.classification.telling import Costs, Told, cannot_compute
from catdog.errors import CatdogError
from catdog.model import folders, inference
from catdog.pixels import COST_COLUMNS, OUTCOME_SCHEMA, DecodeEntries, Decoder, as_pixels
from catdog.results import part_files
from catdog.runtime import nodes, tensorflow_quirks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from catdog.classification.telling import Assignment
    from catdog.model import Arithmetic
    from catdog.results import Plan, Work

# A task: the number of each shard, and whether the folder had a file of it.
TASK_SCHEMA = pa.schema([("shard", pa.int64()), ("present", pa.bool_())])


class Scorer:
    """Scores pixels and writes the shards' rows.

    Args:
        loaded: the model.
        assignment: what to do.
        threads: number of threads for scoring.
        metrics: of this process; None for none.
    """

    def __init__(
        self,
        loaded: folders.Model,
        assignment: Assignment,
        threads: int,
        metrics: Metrics | None,
    ) -> None:
        arithmetic = assignment.arithmetic
        self._assignment, self.metrics = assignment, metrics
        self.metadata = loaded.metadata
        self.predict = inference.load_predictor(
            loaded,
            engine=arithmetic.engine,  # type: ignore[arg-type]
            precision=arithmetic.precision,  # type: ignore[arg-type]
            threads=threads,
            gpu=arithmetic.device == "gpu",
            embeddings=assignment.embeddings,
        )

    def room_for(self, images: int) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Arrays for the scores and embeddings of this many images, still to be filled."""
        return (
            np.zeros((images, len(self.metadata.labels)), np.float32),
            np.zeros((images, self.predict.embedding_size), np.float16),
        )

    def finish(
        self,
        work: Work,
        outcome: pa.Table,
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16],
        costs: Costs,
    ) -> Told:
        """Write a shard's part file; returns what the driver must know of it."""
        started = time.monotonic()
        rows = part_files.build_rows(
            work.entries["uri"],
            outcome,
            scores,
            embeddings if self.predict.embedding_size else None,
            labels=self.metadata.labels,
            min_probability=self._assignment.least,
            model=self.metadata.fingerprint,
            top=self._assignment.top,
            all_scores=self._assignment.all_scores,
            decoded=self._assignment.decode_limits.truncated == "decode",
            labels_from=self._assignment.labels_from,
        )
        timing = dataclasses.asdict(costs) | {"ended_at": time.time()}
        for untold in ("first_at", "bytes_read"):
            del timing[untold]
        part, ours = part_files.finish(
            work, rows, labels=self.metadata.labels, run=self._assignment.run, timing=timing
        )
        told = Told(
            shard=work.shard,
            rows=part.counts.images,
            rejected=sum(part.counts.errors.values()),
            images=rows.num_rows if ours else 0,
            **dataclasses.asdict(costs),
            write_s=time.monotonic() - started,
            ended_at=time.time(),
        )
        if self.metrics is not None:
            self.metrics.count(part_files.count_rows(rows), told)
        return told


def _loaded(model: Any, assignment: Assignment) -> folders.Model:
    """The model, on a node that can compute as the job began; `model` may be in the object store."""
    import ray

    if not arithmetic_is_possible(assignment.arithmetic):
        node = f"node {ray.util.get_node_ip_address()}"
        raise CatdogError(cannot_compute(node, "take it out of the cluster"))
    found: folders.Model = ray.get(model) if isinstance(model, ray.ObjectRef) else model
    return found


def _scorer_of_actor(loaded: folders.Model, assignment: Assignment) -> Scorer:
    """A scorer with the CPUs of the calling actor."""
    return Scorer(loaded, assignment, nodes.worker_cpus(), Metrics())


def arithmetic_is_possible(arithmetic: Arithmetic) -> bool:
    """Whether this machine can compute in this way."""
    return not arithmetic.needs_bfloat16 or tensorflow_quirks.cpu_has_bfloat16()


def _done_before(assignment: Assignment, shard: int) -> Told:
    """A shard that has its file already, by another driver or by a worker that died right after."""
    part = part_files.look(assignment.plan, shard)
    if part is None:
        raise CatdogError(
            f"the file of shard {shard} has just disappeared; run the same command again"
        )
    now = time.time()
    return Told(
        shard=shard,
        rows=part.counts.images,
        rejected=sum(part.counts.errors.values()),
        images=part.fresh if part.run == assignment.run else 0,
        **dataclasses.asdict(Costs(now, 0.0, 0.0, 0.0, now, 0)),
        write_s=0.0,
        ended_at=now,
    )


def _as_table(told: Iterable[Told]) -> pa.Table:
    return pa.Table.from_pylist([dataclasses.asdict(each) for each in told])


class Signs(Protocol):
    """Follows the progress of a lane; `Pulse` is one."""

    def begin(self, shard: int) -> None:
        """A shard begins."""

    def add(self, images: int) -> None:
        """This many more images of it are done."""

    def end(self) -> None:
        """The shard is finished."""


class Lane:
    """A child process that decodes and a scorer: everything from a shard's number to its part file.

    Args:
        scorer: scores and writes.
        decoder: entered; see `decoder_for`.
        assignment: what to do.
        pulse: follows its progress.
    """

    def __init__(
        self, scorer: Scorer, decoder: Decoder, assignment: Assignment, pulse: Signs
    ) -> None:
        self._scorer, self._decoder = scorer, decoder
        self._assignment, self._pulse = assignment, pulse

    def classify(self, shard: int, *, present: bool) -> Told:
        """Do a shard; `present` says whether the folder had a file of it."""
        started_at = time.time()
        work = part_files.begin(self._assignment.plan, shard, present=present)
        if work is None:
            told = _done_before(self._assignment, shard)
            self._pulse.add(told.rows)
            return told
        self._pulse.begin(shard)
        entries = work.entries
        scores, embeddings = self._scorer.room_for(entries.num_rows)
        outcomes, waiting = [], 0
        read_s = decode_s = predict_s = first_at = 0.0
        bytes_read = 0
        for batch in self._decoder.decode(entries):
            started = time.monotonic()
            if len(batch.rows):
                rows = batch.rows
                scores[rows], embeddings[rows] = self._scorer.predict.with_embeddings(batch.pixels)
            predict_s += time.monotonic() - started
            first_at = first_at or time.time()
            outcomes.append(batch.outcomes)
            waiting += batch.waiting
            self._pulse.add(batch.outcomes.num_rows)
            read_s += batch.read_s
            decode_s += batch.decode_s
            bytes_read += batch.bytes_read
        if self._scorer.metrics is not None:
            self._scorer.metrics.queue(waiting / max(1, len(outcomes)))
        outcome = pa.Table.from_batches(outcomes, OUTCOME_SCHEMA)
        first_at = first_at or time.time()
        costs = Costs(started_at, read_s, decode_s, predict_s, first_at, bytes_read)
        told = self._scorer.finish(work, outcome, scores, embeddings, costs)
        self._pulse.end()
        return told


def decoder_for(metadata: folders.ModelMetadata, assignment: Assignment) -> Decoder:
    """The decoder of a lane."""
    return Decoder(
        metadata.preprocessing,
        assignment.decode_limits,
        assignment.source_limits,
        assignment.batch_size,
    )


class ClassifyShards:
    """A lane on one CPU."""

    def __init__(self, model: Any, assignment: Assignment, board: Any) -> None:
        loaded = _loaded(model, assignment)
        decoder = decoder_for(loaded.metadata, assignment)  # its process starts meanwhile
        scorer = _scorer_of_actor(loaded, assignment)
        self._plan, self._pulse = assignment.plan, Pulse(board)
        self._lane = Lane(scorer, decoder, assignment, self._pulse)

    def __call__(self, task: pa.Table) -> pa.Table:
        """Classify the shards of a task, a table with `TASK_SCHEMA`; a row of `Told` for each."""
        told = _as_table(self._lane.classify(**row) for row in _marked(self._plan, task))
        self._pulse.told()
        return told


def _marked(plan: Plan, task: pa.Table) -> list[dict[str, Any]]:
    """The rows of a task. `present` ones were written by a worker that died before the task's end.

    They come first: workers begin the shards of a task in order.
    """
    rows: list[dict[str, Any]] = task.to_pylist()
    if len(rows) > 1:
        for row in rows:
            if not row["present"] and part_files.look(plan, row["shard"]) is None:
                break
            row["present"] = True
    return rows


class DecodeShards:
    """The first half, on a CPU: a shard's number in, its pixels out."""

    def __init__(self, metadata: folders.ModelMetadata, assignment: Assignment, board: Any) -> None:
        self._plan = assignment.plan
        self._pulse = Pulse(board)
        self._decode = DecodeEntries(
            metadata.preprocessing, assignment.decode_limits, assignment.source_limits, ("uri",)
        )

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        """Decode the shards of a task, a table with `TASK_SCHEMA`, except those that are done.

        A shard becomes ONE row that holds a whole table: with GPUs Ray Data needs a batch size, and
        it may bundle or split anything but a row.
        """
        for row in _marked(self._plan, task):
            work = part_files.begin(self._plan, row["shard"], present=row["present"])
            column = pa.array([None], pa.large_binary())
            if work is not None:
                self._pulse.begin(row["shard"])
                decoded = self._decode(work.entries)
                self._pulse.end()
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, decoded.schema) as writer:
                    writer.write_table(decoded)
                column = pa.array([memoryview(sink.getvalue())], pa.large_binary())
            yield pa.Table.from_pylist([row], TASK_SCHEMA).append_column("decoded", column)


class ScoreShard:
    """The second half, on a GPU: a shard's pixels in, its part file out."""

    def __init__(self, model: Any, assignment: Assignment) -> None:
        self._assignment = assignment
        self._scorer = _scorer_of_actor(_loaded(model, assignment), assignment)

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Score and write the one shard of a table that `DecodeShards` made; a row of `Told`."""
        (shard,) = tasks["shard"].to_numpy().tolist()
        (present,) = tasks["present"].to_pylist()
        # Read again: only the file's present version may be replaced.
        work = part_files.begin(self._assignment.plan, shard, present=present)
        if work is None:
            return _as_table([_done_before(self._assignment, shard)])
        decoded = None
        if tasks["decoded"][0].is_valid:
            decoded = pa.ipc.open_stream(tasks["decoded"][0].as_buffer()).read_all()
        if decoded is None or not decoded["uri"].equals(work.entries["uri"]):
            raise CatdogError(
                f"the file of shard {shard} changed in the meantime; run the same command again"
            )
        started = time.monotonic()
        scores, embeddings = self._score(decoded)
        # A shard that only loses rows has nothing to decode.
        spent = {name: decoded[name][0].as_py() for name in COST_COLUMNS} if len(scores) else {}
        costs = Costs(
            **(
                {"started_at": time.time(), "read_s": 0.0, "decode_s": 0.0, "bytes_read": 0} | spent
            ),
            predict_s=time.monotonic() - started,
            first_at=time.time(),
        )
        outcome = decoded.select(OUTCOME_SCHEMA.names)
        return _as_table([self._scorer.finish(work, outcome, scores, embeddings, costs)])

    def _score(self, decoded: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        scores, embeddings = self._scorer.room_for(decoded.num_rows)
        if not len(scores):
            return scores, embeddings
        preprocessing = self._scorer.metadata.preprocessing
        shape = (preprocessing.height, preprocessing.width, 3)
        pixels = as_pixels(decoded["pixels"], shape)
        for start in range(0, len(pixels), self._assignment.batch_size):
            batch = slice(start, start + self._assignment.batch_size)
            scores[batch], embeddings[batch] = self._scorer.predict.with_embeddings(pixels[batch])
        return scores, embeddings


class Metrics:
    """A worker's metrics for Prometheus, through Ray's metrics port of each node."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._classified = Counter("catdog_classified_images", "Images with a label.", ("label",))
        self._rejected = Counter("catdog_rejected_images", "Images with an error.", ("error",))
        self._bytes = Counter("catdog_read_bytes", "Bytes of encoded images that were read.")
        self._seconds = Counter("catdog_stage_seconds", "Seconds spent by stage.", ("stage",))
        self._waiting = Gauge(
            "catdog_waiting_batches",
            "Decoded batches that waited for the scorer, at most 2: the mean of the last shard.",
        )

    def queue(self, batches: float) -> None:
        """The average number of decoded batches that waited for the scorer."""
        self._waiting.set(batches)

    def count(self, done: part_files.PartCounts, told: Told) -> None:
        """Add a finished shard."""
        for label, images in done.labels.items():
            self._classified.inc(images, {"label": label})
        for error, images in done.errors.items():
            self._rejected.inc(images, {"error": error})
        if told.bytes_read:
            self._bytes.inc(told.bytes_read)
        for stage in ("read", "decode", "predict", "write"):
            if (seconds := getattr(told, f"{stage}_s")) > 0:
                self._seconds.inc(seconds, {"stage": stage})
