"""Classification as stages of a Ray Data job: numbers of shards in, part files out.

On CPUs one actor does a shard from bytes to Parquet (`ClassifyShards`): decoding goes on in its
child process while it scores the batch before. On GPUs the stages are apart (`DecodeShards`, then
`ScoreShard`), so that a GPU never waits for a JPEG and CPU nodes can help.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog.model import folders, inference
from catdog.pixels import COST_COLUMNS, OUTCOME_SCHEMA, DecodeEntries, Decoder, as_pixels
from catdog.results import part_files
from catdog.runtime import nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catdog.classification.config import ClassifyConfig
    from catdog.results import Plan


def entries_to_do(plan: Plan, shard: int, *, retry_rejected: bool) -> pa.Table:
    """The entries of a shard; of a finished one only the rejected, where they are tried again."""
    entries = plan.read_shard(shard)
    if retry_rejected and part_files.has_part(plan, shard):
        before = part_files.read_part(plan, shard, ["error"])
        return entries.filter(before["error"].is_valid())
    return entries


class _Scorer:
    """Scores pixels and writes the shards' rows."""

    def __init__(self, model: Any, plan: Plan, config: ClassifyConfig, *, gpu: bool) -> None:
        import ray

        loaded: folders.Model = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._plan, self._config = plan, config
        self.metadata = loaded.metadata
        self.predict = inference.load_predictor(
            loaded,
            engine=config.engine,
            precision=config.precision,
            threads=nodes.worker_cpus(),
            gpu=gpu,
        )
        self._metrics = _Metrics()

    def finish(
        self,
        shard: int,
        uris: pa.ChunkedArray,
        outcome: pa.Table,
        scores: NDArray[np.float32],
        costs: dict[str, Any],
    ) -> dict[str, Any]:
        """Write a shard's part file; what the driver is to know of it."""
        started = time.monotonic()
        rows = part_files.build_rows(
            uris,
            outcome,
            scores,
            labels=self.metadata.labels,
            min_probability=self._config.min_probability,
            model=self.metadata.fingerprint,
        )
        done = part_files.count_rows(rows)
        if self._config.retry_rejected and part_files.has_part(self._plan, shard):
            before = part_files.read_part(self._plan, shard)
            rows = part_files.replace_rows(before, before["error"].is_valid(), rows)
        stages = ("started_at", "read_s", "decode_s", "predict_s")
        timing = {name: costs[name] for name in stages} | {"ended_at": time.time()}
        part_files.write_part(self._plan, shard, rows, self.metadata.labels, timing)
        told = costs | {
            "images": rows.num_rows,
            "rejected": rows.num_rows - rows["error"].null_count,
            "write_s": time.monotonic() - started,
            "ended_at": time.time(),
            "precision": self.predict.precision,
        }
        self._metrics.count(done, told)
        return told


class ClassifyShards:
    """Everything from a shard's number to its part file, on one CPU."""

    def __init__(self, model: Any, plan: Plan, config: ClassifyConfig) -> None:
        self._plan, self._config = plan, config
        self._scorer = _Scorer(model, plan, config, gpu=False)
        self._decoder = Decoder(
            self._scorer.metadata.preprocessing,
            config.decode_limits,
            config.source_limits,
            config.batch_size,
        )
        self._decoder.__enter__()

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Classify the shards of a table with the column `shard`; a row of costs for each."""
        return pa.Table.from_pylist(
            [self._classify(shard) for shard in shards["shard"].to_numpy().tolist()]
        )

    def _classify(self, shard: int) -> dict[str, Any]:
        started_at = time.time()
        entries = entries_to_do(self._plan, shard, retry_rejected=self._config.retry_rejected)
        scores = np.zeros((entries.num_rows, len(self._scorer.metadata.labels)), np.float32)
        outcomes = []
        read_s = decode_s = predict_s = first_at = 0.0
        bytes_read = 0
        for batch in self._decoder.decode(entries):
            started = time.monotonic()
            if len(batch.rows):
                scores[batch.rows] = self._scorer.predict(batch.pixels)
            predict_s += time.monotonic() - started
            first_at = first_at or time.time()
            outcomes.append(batch.outcomes)
            read_s += batch.read_s
            decode_s += batch.decode_s
            bytes_read += batch.bytes_read
        outcome = pa.Table.from_batches(outcomes, OUTCOME_SCHEMA)
        costs = {
            "started_at": started_at,
            "read_s": read_s,
            "decode_s": decode_s,
            "bytes_read": bytes_read,
            "predict_s": predict_s,
            "first_at": first_at,
        }
        return self._scorer.finish(shard, entries["uri"], outcome, scores, costs)


class DecodeShards:
    """The first half, on a CPU: a shard's number in, its pixels out."""

    def __init__(self, metadata: folders.ModelMetadata, plan: Plan, config: ClassifyConfig) -> None:
        self._plan, self._config = plan, config
        self._decode = DecodeEntries(
            metadata.preprocessing, config.decode_limits, config.source_limits, ("uri",)
        )

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Decode the one shard of a table with the column `shard`.

        The shard becomes ONE row that holds a whole table: Ray Data wants a batch size where there
        are GPUs, and only rows keep together whatever it bundles or splits.
        """
        (shard,) = shards["shard"].to_numpy().tolist()
        entries = entries_to_do(self._plan, shard, retry_rejected=self._config.retry_rejected)
        decoded = self._decode(entries)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, decoded.schema) as writer:
            writer.write_table(decoded)
        column = pa.array([memoryview(sink.getvalue())], pa.large_binary())
        return pa.table({"shard": shards["shard"], "decoded": column})


class ScoreShard:
    """The second half, on a GPU: a shard's pixels in, its part file out."""

    def __init__(self, model: Any, plan: Plan, config: ClassifyConfig) -> None:
        self._scorer = _Scorer(model, plan, config, gpu=True)
        self._batch_size = config.batch_size

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Score and write the one shard of a table that `DecodeShards` made; a row of costs."""
        (shard,) = shards["shard"].to_numpy().tolist()
        decoded = pa.ipc.open_stream(shards["decoded"][0].as_buffer()).read_all()
        preprocessing = self._scorer.metadata.preprocessing
        shape = (preprocessing.height, preprocessing.width, 3)
        pixels = as_pixels(decoded["pixels"], shape)
        started = time.monotonic()
        scores = np.zeros((len(pixels), len(self._scorer.metadata.labels)), np.float32)
        for start in range(0, len(pixels), self._batch_size):
            batch = slice(start, start + self._batch_size)
            scores[batch] = self._scorer.predict(pixels[batch])
        costs = {name: decoded[name][0].as_py() for name in COST_COLUMNS}
        costs["predict_s"] = time.monotonic() - started
        costs["first_at"] = time.time()
        outcome = decoded.select(OUTCOME_SCHEMA.names)
        told = self._scorer.finish(shard, decoded["uri"], outcome, scores, costs)
        return pa.Table.from_pylist([told])


class _Metrics:
    """Prometheus counters through Ray's metrics, on each node's metrics port."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter

        self._classified = Counter("catdog_classified_images", "Images with a label.", ("label",))
        self._rejected = Counter("catdog_rejected_images", "Images with an error.", ("error",))
        self._bytes = Counter("catdog_read_bytes", "Bytes of encoded images that were read.")
        self._seconds = Counter("catdog_stage_seconds", "Seconds spent by stage.", ("stage",))

    def count(self, done: part_files.PartCounts, told: dict[str, Any]) -> None:
        """Add a finished shard."""
        for label, images in done.labels.items():
            self._classified.inc(images, {"label": label})
        for error, images in done.errors.items():
            self._rejected.inc(images, {"error": error})
        if told["bytes_read"]:
            self._bytes.inc(told["bytes_read"])
        for stage in ("read", "decode", "predict", "write"):
            if told[f"{stage}_s"] > 0:
                self._seconds.inc(told[f"{stage}_s"], {"stage": stage})
