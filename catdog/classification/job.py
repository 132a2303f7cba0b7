"""Bulk classification: a Ray Data job over the shards of a plan, results in Parquet.

The flow: `classify` (the driver) writes the plan, or finds it; Ray Data spreads the unfinished
shards over actors; an actor reads and decodes a shard in a child process while it scores the
batches before, and writes the shard's part file; the driver adds up what the actors tell and at
the end counts what the files hold.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catdog import inputs, storage
from catdog.classification import actors
from catdog.classification.config import ClassifyConfig
from catdog.errors import CatdogError, UserInputError
from catdog.inputs import Part, splits
from catdog.model import folders
from catdog.observer import Observer
from catdog.results import part_files, plans
from catdog.runtime import nodes, ray_quirks
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from catdog.pixels import Preprocessing
    from catdog.results import Plan

_MAX_SHARD_BYTES = 96 * 2**20
_PLAN_FIRST_S = 0.5
_TRIES = 3  # each with new workers, where one of the last ones hangs


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
        first_image_s: from the start of this run to the first scores of an image.
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
    first_image_s: float | None
    stages_s: dict[str, float]
    bytes_read: int
    precision: str
    already_complete: bool = False


def classify(
    config: ClassifyConfig,
    observer: Observer | None = None,
    check: Callable[[pa.RecordBatch, tuple[str, ...]], pa.RecordBatch] | None = None,
) -> ClassifySummary:
    """Classify as configured; runs on the driver, connects to Ray and disconnects.

    Args:
        config: what to do.
        observer: sees how far it is.
        check: is given the listed entries and the model's classes, batch by batch before anything
            is classified, and returns the entries or refuses them with a `UserInputError`.

    Raises:
        UserInputError: the input or the model is wrong, or the output belongs to another job.
        CatdogError: the job failed; running it again goes on where it stopped.
    """
    started, started_at = time.monotonic(), time.time()
    observer = observer or Observer()
    with storage.blamed_on(f"--model {config.model}"):
        model = folders.load(config.model)
    question = config.question(model.metadata.fingerprint)
    with storage.blamed_on(f"--output {config.output}"):
        output = storage.to_uri(config.output)
        recorded = part_files.read_json(output, part_files.RUN_FILE)
        if recorded is None:
            # Of a command whose mistake was found while it listed, part of a plan may be left.
            if set(storage.list_names(output)) - {f"{plans.PLAN_FOLDER}/"}:
                raise UserInputError(
                    f"--output {config.output}: the folder is not empty; name another one"
                )
            _write_run_record(output, config, question)
    if recorded is not None:
        _check_same_question(config, recorded["question"], question)
        summary = part_files.read_json(output, part_files.SUMMARY_FILE)
        if summary is not None:
            if not (config.retry_rejected and summary["rejected"]):
                return ClassifySummary(**summary | {"already_complete": True})
            # Its numbers are about to change; a run that is ended half-way is to be finished.
            storage.delete(storage.join(output, part_files.SUMMARY_FILE))

    # Images are listed while Ray starts: start-up is most of a small job. It is the listing that
    # has the thread, since Ray's processes end with the thread that started them.
    try:
        with concurrent.futures.ThreadPoolExecutor(1, "plan") as pool:
            planning = pool.submit(_plan, config, output, model, observer, check)
            # A misspelt input is known at once; Ray need not start for it.
            concurrent.futures.wait([planning], timeout=_PLAN_FIRST_S)
            if planning.done():
                planning.result()
            with ray_quirks.connect(config.address, minimum_cpus=config.workers):
                plan, finished = planning.result()
                tally = _run(config, plan, finished, model, observer)
                return _finish(plan, model, tally, started_at, started)
    except UserInputError:
        if recorded is None and plans.read(output) is None:
            # Nothing was begun: the command with the mistake mended is to be taken.
            storage.delete(storage.join(output, part_files.RUN_FILE))
        raise


def _plan(
    config: ClassifyConfig,
    output: str,
    model: folders.Model,
    observer: Observer,
    check: Callable[[pa.RecordBatch, tuple[str, ...]], pa.RecordBatch] | None,
) -> tuple[Plan, dict[int, part_files.PartCounts]]:
    """The plan, written now or by an earlier run, and what of it is done."""
    plan = plans.read(output)
    if plan is None:
        observer.phase("listing images")
        batches = inputs.list_images(config.images, config.source_limits, config.columns)
        where = ""
        if config.part is not None:
            recipe = model.metadata.training["recipe"]
            validation, test = recipe["validation"], recipe["test"]
            batches = _of_part(batches, config.part, validation, test)
            where = f" in the {config.part} part (--validation {validation:g} --test {test:g})"
        if check is not None:
            batches = (check(batch, model.metadata.labels) for batch in batches)
        # Before the plan is written: a job without images is no job, and leaves nothing.
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            raise UserInputError(f"{' '.join(config.images)}: no images found{where}")
        batches = itertools.chain([first], batches)
        plan = plans.write(
            output,
            batches,
            max_shard_images=_max_shard_images(model.metadata.preprocessing),
            progress=observer.planned,
        )
    return plan, part_files.count_parts(plan)


def _of_part(
    batches: Iterator[pa.RecordBatch], part: Part, validation: float, test: float
) -> Iterator[pa.RecordBatch]:
    """The entries that the training of the model had in this part."""
    for batch in batches:
        names = batch.column("name").to_pylist()
        parts = [splits.part_of(name, validation=validation, test=test) for name in names]
        yield batch.filter(pa.array([each == part for each in parts]))


def _max_shard_images(preprocessing: Preprocessing) -> int:
    """A shard's pixels stay below the size at which Ray Data would split a block."""
    return max(1, _MAX_SHARD_BYTES // (preprocessing.height * preprocessing.width * 3))


def _check_same_question(
    config: ClassifyConfig, recorded: dict[str, Any], question: dict[str, Any]
) -> None:
    before, now = _flat(recorded), _flat(json.loads(json.dumps(question)))
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    if changed:
        difference = "; ".join(
            f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed
        )
        raise UserInputError(
            f"--output {config.output}: holds the results of another job ({difference}); "
            "name another folder"
        )


def _flat(question: dict[str, Any]) -> dict[str, Any]:
    """A question's values by the names that users know: limits by their flags."""
    flat: dict[str, Any] = {}
    for name, value in question.items():
        if isinstance(value, dict):
            flat |= {f"--{limit.replace('_', '-')}": number for limit, number in value.items()}
        else:
            flat[name] = ", ".join(value) if isinstance(value, list) else value
    return flat


def _write_run_record(output: str, config: ClassifyConfig, question: dict[str, Any]) -> None:
    import platform

    record = {
        "catdog": __version__,
        "question": question,
        "config": dataclasses.asdict(config),
        "python": platform.python_version(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    part_files.write_json(output, part_files.RUN_FILE, record)


def _shards_to_do(
    plan: Plan, finished: dict[int, part_files.PartCounts], *, retry_rejected: bool
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
    first_start: float = math.inf
    first_image: float = math.inf
    last_end: float = 0.0

    def add(self, told: dict[str, Any]) -> None:
        """Count a finished shard."""
        self.images += told["images"]
        self.bytes_read += told["bytes_read"]
        self.precisions.add(told["precision"])
        for stage in ("read", "decode", "predict", "write"):
            self.stages_s[stage] += told[f"{stage}_s"]
        self.first_start = min(self.first_start, told["started_at"])
        self.first_image = min(self.first_image, told["first_at"])
        self.last_end = max(self.last_end, told["ended_at"])

    @property
    def images_per_s(self) -> float:
        """From the first shard's start to the last one's end: the workers' start-up is not in."""
        return self.images / max(self.last_end - self.first_start, 1e-3) if self.images else 0.0


def _run(
    config: ClassifyConfig,
    plan: Plan,
    finished: dict[int, part_files.PartCounts],
    model: folders.Model,
    observer: Observer,
) -> _Tally:
    """Do what is left; with new workers, where one of them hangs."""
    from ray.exceptions import ActorUnavailableError

    tally = _Tally()
    with ray_quirks.plain_errors():
        for tries_left in reversed(range(_TRIES)):
            todo = _shards_to_do(plan, finished, retry_rejected=config.retry_rejected)
            try:
                if todo:
                    _work(config, plan, finished, todo, model, observer, tally)
                break
            except ActorUnavailableError:
                # Its process is there and does not answer: Ray goes on neither with nor without it.
                if not tries_left:
                    raise
                observer.phase("a worker does not answer; going on with new ones")
                finished = part_files.count_parts(plan)
    return tally


def _work(
    config: ClassifyConfig,
    plan: Plan,
    finished: dict[int, part_files.PartCounts],
    todo: Sequence[int],
    model: folders.Model,
    observer: Observer,
    tally: _Tally,
) -> None:
    """One Ray Data job over the shards of `todo`."""
    repeated = set(todo)
    before = [counts for shard, counts in finished.items() if shard not in repeated]
    done = sum(counts.images for counts in before)
    rejected = sum(sum(counts.errors.values()) for counts in before)
    nodes.wait_for_room(1, cpus=1, on_wait=observer.phase)
    gpu = nodes.cluster_resources()[1] > 0
    batches = _pipeline(config, plan, todo, model, observer, gpu=gpu)
    watch = nodes.NodeWatch(1, gpus=1) if gpu else nodes.NodeWatch(1, cpus=1)
    for batch in nodes.watched(batches, watch):
        for told in batch.to_pylist():
            tally.add(told)
            done += told["images"]
            rejected += told["rejected"]
            observer.progress(done, plan.images, rejected, tally.images_per_s)


def _pipeline(
    config: ClassifyConfig,
    plan: Plan,
    todo: Sequence[int],
    model: folders.Model,
    observer: Observer,
    *,
    gpu: bool,
) -> Iterator[pa.Table]:
    """The Ray Data job; yields what the workers tell of finished shards.

    All of it happens as it is iterated over, also what asks the cluster: to be watched.

    No operator needs more logical CPUs than there are, and the last one of the GPU form needs none:
    no size of cluster can stall for want of a CPU.
    """
    import ray
    from ray.data import ActorPoolStrategy

    shape = {"gpus": 1} if gpu else {"cpus": 1}
    if not nodes.autoscales():  # which brings nodes for the others while the first ones work
        needed = min(config.workers or 1, len(todo))
        nodes.wait_for_room(needed, **shape, on_wait=observer.phase)
    nodes.wait_until_free(1, **shape, on_wait=observer.phase, timeout_s=config.wait_s)
    workers = min(config.workers or max(1, nodes.room(**shape)), len(todo))
    observer.phase(f"starting {workers} workers")
    stage = functools.partial(
        ray.data.Dataset.map_batches,
        batch_size=1,
        batch_format="pyarrow",
        **ray_quirks.BOUNDED_RESTARTS,
    )
    shards = ray.data.from_arrow(
        [pa.table({"shard": pa.array(task, pa.int64())}) for task in plan.tasks(todo, workers)]
    )
    shared_model = ray.put(model)
    # Of a number that was asked for, the rest waits for nodes; else the pool takes what joins.
    largest = workers if config.workers else len(todo)
    pool = ActorPoolStrategy(min_size=workers, max_size=largest)
    if gpu:
        decoders = max(1, min(nodes.room(cpus=1), len(todo)))
        decoded = stage(
            shards,
            actors.DecodeShards,
            fn_constructor_args=(model.metadata, plan, config),
            compute=ActorPoolStrategy(min_size=1, initial_size=decoders, max_size=len(todo)),
            num_cpus=1,
        )
        told = stage(
            decoded,
            actors.ScoreShard,
            fn_constructor_args=(shared_model, plan, config),
            compute=pool,
            num_cpus=0,
            num_gpus=1,
        )
    else:
        told = stage(
            shards,
            actors.ClassifyShards,
            fn_constructor_args=(shared_model, plan, config),
            compute=pool,
            num_cpus=1,
        )
    yield from told.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _finish(
    plan: Plan, model: folders.Model, tally: _Tally, started_at: float, started: float
) -> ClassifySummary:
    """Count what the files hold; write the summary only if that is the whole plan."""
    names = storage.list_names(plan.output)
    counts = part_files.total(part_files.count_parts(plan, names).values())
    strangers = part_files.foreign_parts(plan, names)
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
        seconds=round(time.monotonic() - started, 2),
        images_per_s=round(tally.images_per_s, 1),
        first_image_s=round(tally.first_image - started_at, 2) if tally.images else None,
        stages_s={stage: round(value, 2) for stage, value in tally.stages_s.items()},
        bytes_read=tally.bytes_read,
        precision=", ".join(sorted(tally.precisions)),
    )
    part_files.write_json(plan.output, part_files.SUMMARY_FILE, dataclasses.asdict(summary))
    return summary
