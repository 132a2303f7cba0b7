"""Bulk classification: a Ray Data job over the shards of a plan, results in Parquet.

The flow: `classify` (the driver) writes the plan, or finds it; Ray Data spreads the unfinished
shards over actors; an actor reads and decodes a shard in a child process while it scores the
batches before, and writes the shard's part file; the driver adds up what the actors tell and at
the end counts what the files hold.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tyro.conf

from catdog import __version__, inference, models, plans, ray_runtime, results, sources, storage
from catdog.decoding import OUTCOME_SCHEMA, Decoder
from catdog.errors import CatdogError, UserInputError
from catdog.images import DecodeLimits
from catdog.inference import Engine
from catdog.observer import Observer
from catdog.sources import SourceLimits
from catdog.tensorflow_runtime import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catdog.plans import Plan


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """What to classify, with which model, and where the results go.

    Attributes:
        images: images, folders, globs, archives (.tar, .tar.gz, .zip), lists (.txt) or tables
            (.parquet, .csv); local or S3.
        output: folder of the results; local or S3.
        model: a training run's folder or a model folder.
        workers: classifying actors; by default one per GPU of the cluster, else one per CPU.
        batch_size: images scored at once.
        precision: of the arithmetic; `auto` takes bfloat16 where the CPU has it, float16 on GPUs.
        engine: what runs the network; `auto` takes OpenVINO on CPUs and TensorFlow on GPUs.
        min_probability: below it the label becomes `uncertain`.
        max_rejected: exit code 1 if a larger fraction of the images was rejected.
        retry_rejected: try the rejected images of a finished job again.
        decode_limits: limits of one image.
        source_limits: limits of files and archives.
        address: of a Ray cluster; by default `RAY_ADDRESS`, or an embedded local cluster.
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    output: str
    model: str
    workers: int | None = None
    batch_size: int = 32
    precision: Precision = "auto"
    engine: Engine = "auto"
    min_probability: float = 0.0
    max_rejected: float = 0.1
    retry_rejected: bool = False
    decode_limits: tyro.conf.OmitArgPrefixes[DecodeLimits] = field(default_factory=DecodeLimits)
    source_limits: tyro.conf.OmitArgPrefixes[SourceLimits] = field(default_factory=SourceLimits)
    address: str | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise UserInputError("IMAGES: name at least one folder, archive, list or table")
        if self.workers is not None and self.workers < 1:
            raise UserInputError("--workers must be at least 1")
        if self.batch_size < 1:
            raise UserInputError("--batch-size must be at least 1")
        for name in ("max_rejected", "min_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be a fraction from 0 to 1")

    def question(self, model_fingerprint: str) -> dict[str, Any]:
        """What decides the rows: a rerun on the same output must ask the same."""
        return {
            "images": [storage.to_uri(image) for image in self.images],
            "model": model_fingerprint,
            "min_probability": self.min_probability,
            "decode_limits": dataclasses.asdict(self.decode_limits),
            "source_limits": dataclasses.asdict(self.source_limits),
        }


@dataclass(frozen=True)
class ClassifySummary:
    """What a finished job's results hold; the content of `_summary.json`.

    Attributes:
        output: URI of the results folder.
        planned: images in the plan; equals classified + rejected.
        classified: images with a label.
        rejected: images with an error.
        labels: classified images by label.
        errors: rejected images by reason.
        model: fingerprint of the model.
        images_this_run: images that this run did; less than planned after a resume.
        seconds: wall time of this run.
        images_per_s: of this run, from the first shard's start to the last one's end.
        stages_s: seconds of all workers by stage: read, decode, predict, write.
        bytes_read: by this run.
        precision: what the workers computed in.
        already_complete: the job was finished before; this run did nothing.
    """

    output: str
    planned: int
    classified: int
    rejected: int
    labels: dict[str, int]
    errors: dict[str, int]
    model: str
    images_this_run: int
    seconds: float
    images_per_s: float
    stages_s: dict[str, float]
    bytes_read: int
    precision: str
    already_complete: bool = False


def classify(config: ClassifyConfig, observer: Observer | None = None) -> ClassifySummary:
    """Classify as configured; runs on the driver, connects to Ray and disconnects.

    Raises:
        UserInputError: the input or the model is wrong, or the output belongs to another job.
        CatdogError: the job failed; running it again goes on where it stopped.
    """
    started = time.monotonic()
    observer = observer or Observer()
    output = storage.to_uri(config.output)
    model = models.load(config.model)
    question = config.question(model.metadata.fingerprint)
    recorded = results.read_json(output, results.RUN_FILE)
    if recorded is None:
        if storage.list_names(output):
            raise UserInputError(f"--output {config.output}: the folder is not empty")
    else:
        _check_same_question(config, recorded["question"], question)
        summary = results.read_json(output, results.SUMMARY_FILE)
        if summary is not None and not (config.retry_rejected and summary["rejected"]):
            return ClassifySummary(**summary | {"already_complete": True})

    if recorded is None:
        _write_run_record(output, config, question)
    # Images are listed while Ray starts: start-up is most of a small job. It is the listing that
    # has the thread, since Ray's processes end with the thread that started them.
    with concurrent.futures.ThreadPoolExecutor(1, "plan") as pool:
        planning = pool.submit(_plan, config, output, observer)
        with ray_runtime.connect(config.address, minimum_cpus=config.workers):
            plan, finished = planning.result()
            todo = _shards_to_do(plan, finished, retry_rejected=config.retry_rejected)
            tally = _run(config, plan, finished, todo, model, observer)
    return _finish(plan, model, tally, time.monotonic() - started)


def _plan(
    config: ClassifyConfig, output: str, observer: Observer
) -> tuple[Plan, dict[int, results.PartCounts]]:
    """The plan, written now or by an earlier run, and what of it is done."""
    plan = plans.read(output)
    if plan is None:
        observer.phase("listing images")
        batches = sources.list_images(config.images, config.source_limits)
        plan = plans.write(output, batches, observer.planned)
    if plan.images == 0:
        raise UserInputError(f"{' '.join(config.images)}: no images found")
    return plan, results.count_parts(plan)


def _check_same_question(
    config: ClassifyConfig, recorded: dict[str, Any], question: dict[str, Any]
) -> None:
    question = json.loads(json.dumps(question))
    changed = sorted(key for key in recorded | question if recorded.get(key) != question.get(key))
    if changed:
        difference = "; ".join(
            f"{key} was {recorded.get(key)}, is {question.get(key)}" for key in changed
        )
        raise UserInputError(
            f"--output {config.output}: holds the results of another job ({difference}); "
            "name another folder"
        )


def _write_run_record(output: str, config: ClassifyConfig, question: dict[str, Any]) -> None:
    import platform

    record = {
        "catdog": __version__,
        "question": question,
        "config": dataclasses.asdict(config),
        "python": platform.python_version(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    results.write_json(output, results.RUN_FILE, record)


def _shards_to_do(
    plan: Plan, finished: dict[int, results.PartCounts], *, retry_rejected: bool
) -> list[int]:
    """The unfinished shards, large ones first so that the last to run are short."""
    todo = [
        shard
        for shard in range(plan.shards)
        if shard not in finished or (retry_rejected and finished[shard].errors)
    ]
    return sorted(todo, key=lambda shard: (-plan.shard_images[shard], shard))


@dataclass
class _Tally:
    """What this run's workers told."""

    images: int = 0
    bytes_read: int = 0
    stages_s: Counter[str] = field(default_factory=Counter)
    precisions: set[str] = field(default_factory=set)
    images_per_s: float = 0.0


def _run(
    config: ClassifyConfig,
    plan: Plan,
    finished: dict[int, results.PartCounts],
    todo: Sequence[int],
    model: models.Model,
    observer: Observer,
) -> _Tally:
    tally = _Tally()
    if not todo:
        return tally
    import ray
    from ray.data import ActorPoolStrategy

    cpus, gpus = ray_runtime.cluster_resources()
    workers = min(config.workers or gpus or cpus, len(todo))
    use_gpu = gpus > 0
    if workers > cpus:
        raise UserInputError(f"--workers {workers}: the cluster has {cpus} CPUs")
    observer.phase(f"starting {workers} workers")
    shards = [pa.table({"shard": pa.array([shard], pa.int64())}) for shard in todo]
    told = (
        ray.data.from_arrow(shards)
        .map_batches(
            ClassifyShard,
            fn_constructor_args=(ray.put(model), plan, config, use_gpu),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=1 if use_gpu else 0,
            # Ray's default restarts a dying actor for ever. There is no named parameter for it.
            max_restarts=4,
            max_task_retries=4,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    before = [finished[shard] for shard in finished if shard not in set(todo)]
    done = sum(counts.images for counts in before)
    rejected = sum(sum(counts.errors.values()) for counts in before)
    first = time.monotonic()
    with ray_runtime.plain_errors():
        for batch in told:
            for row in batch.to_pylist():
                tally.images += row["images"]
                tally.bytes_read += row["bytes_read"]
                tally.precisions.add(row["precision"])
                for stage in ("read", "decode", "predict", "write"):
                    tally.stages_s[stage] += row[f"{stage}_s"]
                rejected += row["rejected"]
                elapsed = time.monotonic() - first
                tally.images_per_s = tally.images / elapsed if elapsed else 0.0
                observer.progress(done + tally.images, plan.images, rejected, tally.images_per_s)
    return tally


def _finish(plan: Plan, model: models.Model, tally: _Tally, seconds: float) -> ClassifySummary:
    """Count what the files hold; write the summary only if that is the whole plan."""
    counts = results.total(results.count_parts(plan).values())
    strangers = results.foreign_parts(plan)
    if strangers:
        raise CatdogError(
            f"{plan.output} holds result files of another job, such as {strangers[0]}"
        )
    classified, rejected = sum(counts.labels.values()), sum(counts.errors.values())
    if not counts.images == classified + rejected == plan.images:
        raise CatdogError(
            f"{plan.output} holds {classified} classified and {rejected} rejected images of "
            f"{plan.images} planned; run the same command again to do the rest"
        )
    summary = ClassifySummary(
        output=plan.output,
        planned=plan.images,
        classified=classified,
        rejected=rejected,
        labels=dict(counts.labels.most_common()),
        errors=dict(counts.errors.most_common()),
        model=model.metadata.fingerprint,
        images_this_run=tally.images,
        seconds=round(seconds, 2),
        images_per_s=round(tally.images_per_s, 1),
        stages_s={stage: round(value, 2) for stage, value in tally.stages_s.items()},
        bytes_read=tally.bytes_read,
        precision=", ".join(sorted(tally.precisions)),
    )
    results.write_json(plan.output, results.SUMMARY_FILE, dataclasses.asdict(summary))
    return summary


class ClassifyShard:
    """Ray Data's actor: numbers of shards in, what was done out; the rows go to part files."""

    def __init__(self, model: Any, plan: Plan, config: ClassifyConfig, use_gpu: bool) -> None:
        import ray

        loaded: models.Model = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._plan, self._config = plan, config
        self._metadata = loaded.metadata
        self._decoder = Decoder(
            loaded.metadata.preprocessing,
            config.decode_limits,
            config.source_limits,
            batch_size=config.batch_size,
        )
        self._decoder.__enter__()
        self._predict = inference.load_predictor(
            loaded,
            engine=config.engine,
            precision=config.precision,
            threads=ray_runtime.worker_cpus(),
            gpu=use_gpu,
        )

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Classify shards; a row for each: images, rejected, bytes, seconds by stage."""
        return pa.Table.from_pylist(
            [self._classify(shard) for shard in shards["shard"].to_numpy().tolist()]
        )

    def _classify(self, shard: int) -> dict[str, Any]:
        entries = self._plan.read_shard(shard)
        if self._config.retry_rejected and results.has_part(self._plan, shard):
            before = results.read_part(self._plan, shard)
            again = before["error"].is_valid().combine_chunks()
            rows, told = self._rows(entries.filter(again))
            rows = results.replace_rows(before, again, rows)
            told["images"] = entries.num_rows
        else:
            rows, told = self._rows(entries)
        started = time.monotonic()
        results.write_part(self._plan, shard, rows, self._metadata.labels)
        rejected = rows.num_rows - rows["error"].null_count
        return told | {"rejected": rejected, "write_s": time.monotonic() - started}

    def _rows(self, entries: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        """Result rows of plan entries, and what they cost."""
        scores = np.zeros((entries.num_rows, len(self._metadata.labels)), np.float32)
        outcomes = []
        read_s = decode_s = predict_s = 0.0
        bytes_read = 0
        for batch in self._decoder.decode(entries):
            started = time.monotonic()
            if len(batch.rows):
                scores[batch.rows] = self._predict(batch.pixels)
            predict_s += time.monotonic() - started
            outcomes.append(batch.outcomes)
            read_s += batch.read_s
            decode_s += batch.decode_s
            bytes_read += batch.bytes_read
        outcome = pa.Table.from_batches(outcomes, OUTCOME_SCHEMA)
        rows = results.build_rows(
            entries["uri"],
            outcome,
            scores,
            labels=self._metadata.labels,
            min_probability=self._config.min_probability,
            model=self._metadata.fingerprint,
        )
        return rows, {
            "images": entries.num_rows,
            "bytes_read": bytes_read,
            "read_s": read_s,
            "decode_s": decode_s,
            "predict_s": predict_s,
            "precision": self._predict.precision,
        }
