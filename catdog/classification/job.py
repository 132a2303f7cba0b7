"""Bulk classification: a Ray Data job over the shards of a plan, results in Parquet.

The flow: `classify` (the driver) lists the inputs and plans what is new; Ray Data spreads the
unfinished shards over actors (`pipeline`); an actor reads and decodes a shard in a child process
while it scores the batches before, and writes the shard's part file; the driver adds up the actors'
reports, and checks the files at the end (`rounds`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import platform
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog import inputs, storage
from catdog.classification import in_process, pipeline, rounds
from catdog.classification.telling import Assignment, cannot_compute
from catdog.errors import CatdogError, UserInputError, counted
from catdog.inputs import Part, Skips, splits
from catdog.model import Arithmetic, folders, inference
from catdog.observer import Observer
from catdog.results import Folder, changes, drafts, ledger, part_files, plans
from catdog.runtime import nodes, ray_quirks, tensorflow_quirks
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from catdog.classification.config import ClassifyConfig
    from catdog.pixels import Preprocessing
    from catdog.results import Draft, PartCounts, Plan, Survey

    Check = Callable[[pa.RecordBatch, folders.ModelMetadata], pa.RecordBatch]

_MAX_SHARD_BYTES = 96 * 2**20
_PLAN_FIRST_S, _PLAN_FIRST_BY_RAY_S = 5.0, 0.5


@dataclass(frozen=True)
class ClassifySummary:
    """The results of a finished job; the content of `_summary.json`.

    Attributes:
        output: URI of the results folder.
        planned: images in the plan; equals classified + rejected.
        classified: images with a label.
        rejected: images with an error.
        labels: classified images by label.
        errors: rejected images by reason.
        model: fingerprint of the model.
        images_this_run: images that this run classified or rejected; 0 if there was nothing to do.
        seconds: wall time of this run.
        images_per_s: of this run, from the first shard's start to the last one's end.
        first_image_s: from the start of this run to the first scores of an image.
        stages_s: seconds of all workers by stage: read, decode, predict, write.
        bytes_read: by this run.
        precision: what the workers compute in, the same in every run.
        executor: where this run classified: `ray`, or `process` for the driver's own; None if
            there was nothing to do.
        retried_shards: shards of this run that were lost and done again, by the cause.
        already_complete: the job was finished before; this run did nothing.
        new: images that this run found and the results did not know.
        changed: known images whose sources have changed, by this run's listing.
        gone: known images that this run's listing did not have.
        passed_over: what this run's listing did not plan, by kind: an extension, `hidden`, `named
            more than once`, ...
        generation: how many times something new was planned.
        generations: of each, when, and how many images it found `new`, `changed`, ...
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
    executor: str | None = None
    retried_shards: dict[str, int] = field(default_factory=dict)
    already_complete: bool = False
    new: int = 0
    changed: int = 0
    gone: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)
    generation: int = 1
    generations: list[dict[str, Any]] = field(default_factory=list)


def classify(
    config: ClassifyConfig, observer: Observer | None = None, check: Check | None = None
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
    with storage.blamed_on(f"--model {config.model}"):
        model = folders.load(config.model)
    with contextlib.ExitStack() as stack:
        driver = _Driver(config, model, observer or Observer(), check, stack)
        with storage.blamed_on(f"--output {config.output}"):
            folder = Folder(storage.to_uri(config.output))
            driver.look_at(folder)
        grow = config.retry_rejected or not config.no_new
        _, summary, did = rounds.run(folder, driver, grow=grow)
        return driver.result(summary, did=did)


class _Driver:
    """A run of the job: what `rounds.run` asks for.

    Args:
        config: what to do.
        model: loaded.
        observer: sees how far it is.
        check: as for `classify`.
        stack: closes the connection to Ray.
    """

    def __init__(
        self,
        config: ClassifyConfig,
        model: folders.Model,
        observer: Observer,
        check: Check | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self._config, self._model, self._observer = config, model, observer
        self._least = config.least_probabilities(model.metadata)
        self._check, self._stack = check, stack
        self._started, self._started_at = time.monotonic(), time.time()
        self._run = secrets.token_hex(8)
        self._tally = pipeline.Tally()
        self._counts, self._skips = changes.Counts(0, 0, 0, 0), Skips()
        self._folder = Folder("")
        self._arithmetic: Arithmetic | None = None  # the job's own, once there is one
        self._connected = False
        self._listed_bytes, self._size_known = 0, threading.Event()
        self._executor: str | None = None
        self._planned = False  # whether this run has made or looked for a plan of its own

    def look_at(self, folder: Folder) -> None:
        """Refuse a folder that belongs to something else, before any work.

        Raises:
            UserInputError: it holds another job's results, or something else.
        """
        self._folder = folder
        recorded = ledger.read_question(folder)
        if recorded is not None:
            if "device" not in recorded:
                raise UserInputError(
                    f"--output {self._config.output}: an earlier version of catdog made these "
                    "results; name another folder"
                )
            self.refuse_another(recorded)
            return
        if folder.uri.startswith(("gs://", "az://")):
            probe = storage.join(folder.uri, plans.PLAN_FOLDER, f"probe-{secrets.token_hex(8)}")
            if not storage.has_conditions(probe):
                raise UserInputError(
                    f"--output {self._config.output}: the store lets a second writer overwrite the "
                    "first; results need a store with create-if-absent"
                )
        # A command that failed while it listed may have left part of a plan.
        if set(folder.names()) - {f"{plans.PLAN_FOLDER}/", f"{inputs.FRAMES_FOLDER}/"}:
            # Another driver may have begun at this moment.
            if (recorded := ledger.read_question(folder)) is not None:
                self.refuse_another(recorded)
                return
            raise UserInputError(
                f"--output {self._config.output}: the folder is not empty; name another one"
            )

    # ---------------------------------------------------------------- the steps of a round

    def draft(self, plan: Plan | None) -> Draft | None:
        """Write the next generation with all changes; None if there is nothing to do."""
        self._planned = True
        if plan is not None:
            return self._next_draft(plan)
        # Images are listed while Ray starts, since start-up is most of a small job. The listing gets
        # the thread, because Ray's processes end with the thread that started them.
        with concurrent.futures.ThreadPoolExecutor(1, "plan") as pool:
            planning = pool.submit(self._first_draft)
            # A misspelt input needs no Ray, nor do few images.
            planning.add_done_callback(lambda _: self._size_known.set())
            here = in_process.may_run(self._config)
            self._size_known.wait(_PLAN_FIRST_S if here else _PLAN_FIRST_BY_RAY_S)
            if planning.done():
                images = sum(planning.result().generation.images)
                if self._few(images, self._listed_bytes):
                    return planning.result()
            self._connect()
            return planning.result()

    def question(self) -> Mapping[str, Any]:
        """Everything that decides the answers; the cluster of the first start resolves `auto`."""
        gpu, bfloat16 = False, tensorflow_quirks.cpu_has_bfloat16()
        if self._connected:
            label = self._config.node_label
            nodes.wait_for_room(1, cpus=1, label=label, on_wait=self._observer.phase)
            gpu = nodes.cluster_resources(label)[1] > 0
            bfloat16 = not nodes.without_bfloat16(label)
        arithmetic = inference.choose_arithmetic(
            self._model,
            engine=self._config.engine,
            precision=self._config.precision,
            gpu=gpu,
            bfloat16=bfloat16,
        )
        return self._asked(arithmetic)

    def about(self) -> Mapping[str, Any]:
        """The other content of `_run.json`."""
        return {
            "catdog": __version__,
            "config": dataclasses.asdict(self._config),
            "python": platform.python_version(),
            "started_at": _utc(),
        }

    def refuse_another(self, recorded: Mapping[str, Any]) -> None:
        """Raise a `UserInputError` if the folder's job is another one; `auto` keeps the folder's values."""
        kept = Arithmetic(*(recorded.get(name, "") for name in ("engine", "precision", "device")))
        config = self._config
        if (config.engine, config.precision) == ("auto", "auto"):
            arithmetic = kept
        else:
            arithmetic = inference.choose_arithmetic(
                self._model,
                engine=kept.engine if config.engine == "auto" else config.engine,  # type: ignore[arg-type]
                precision=kept.precision if config.precision == "auto" else config.precision,  # type: ignore[arg-type]
                gpu=kept.device == "gpu",
            )
        _refuse_other_question(config.output, recorded, self._asked(arithmetic))
        self._arithmetic = kept

    def work(self, plan: Plan, found: Survey, todo: Sequence[int]) -> None:
        """Classify shards, with Ray's workers if they are many."""
        arithmetic, config = self._arithmetic, self._config
        if not self._planned:
            done = f"{found.counts.images:,} of {counted(plan.images, 'image')} done"
            left = f"{len(todo):,} of {counted(plan.shards, 'shard')} left"
            self._observer.phase(f"resuming: {done}, {left}")
        assert arithmetic is not None  # noqa: S101 - the record was looked at before
        assignment = Assignment(
            plan=plan,
            run=self._run,
            arithmetic=arithmetic,
            least=self._least,
            labels_from=config.label_thresholds(self._model.metadata),
            top=config.top or 0,
            all_scores=config.scores == "yes",
            embeddings=config.embeddings,
            batch_size=config.batch_size,
            decode_limits=config.decode_limits,
            source_limits=config.source_limits,
        )
        if arithmetic.device == "cpu" and not self._connected and self._are_few(plan, todo):
            self._executor = "process"
            in_process.run(assignment, self._model, found, todo, self._observer, self._tally)
            return
        self._executor = "ray"
        self._connect()
        _refuse_unable(arithmetic, config.node_label)
        pipeline.run(assignment, config, self._model, found, todo, self._observer, self._tally)

    def summary(self, plan: Plan, counts: PartCounts) -> Mapping[str, Any]:
        """The counts of the results, for `_summary.json`."""
        classified, rejected = sum(counts.labels.values()), sum(counts.errors.values())
        if counts.images != classified + rejected:
            raise CatdogError(f"{plan.output}: rows have a label and an error, or neither")
        arithmetic = self._arithmetic
        content = ClassifySummary(
            output=plan.output,
            planned=plan.images,
            classified=classified,
            rejected=rejected,
            labels=dict(counts.labels.most_common()),
            errors=dict(counts.errors.most_common()),
            model=self._model.metadata.fingerprint,
            precision=arithmetic.precision if arithmetic is not None else "",
            generation=plan.generation,
            generations=[
                {"generation": each.number, "planned_at": each.planned_at, **each.counts}
                for each in plan.generations
            ],
            **self._of_this_run(),
        )
        return dataclasses.asdict(content)

    # ---------------------------------------------------------------- what they do

    def result(self, summary: Mapping[str, Any], *, did: bool) -> ClassifySummary:
        """The summary of the results, with the figures of this run."""
        fields = {each.name for each in dataclasses.fields(ClassifySummary)}
        told = {name: value for name, value in summary.items() if name in fields}
        return ClassifySummary(**told | self._of_this_run() | {"already_complete": not did})

    def _of_this_run(self) -> dict[str, Any]:
        tally = self._tally
        began = round(tally.first_image - self._started_at, 2) if tally.images else None
        return {
            "images_this_run": tally.images,
            "seconds": round(time.monotonic() - self._started, 2),
            "images_per_s": round(tally.images_per_s, 1),
            "first_image_s": began,
            "stages_s": {stage: round(value, 2) for stage, value in tally.stages_s.items()},
            "bytes_read": tally.bytes_read,
            "executor": self._executor,
            "retried_shards": dict(tally.retried),
            "new": self._counts.new,
            "changed": self._counts.changed,
            "gone": self._counts.gone,
            "passed_over": self._skips.counts(),
        }

    def _asked(self, arithmetic: Arithmetic) -> dict[str, Any]:
        fingerprint = self._model.metadata.fingerprint
        asked = self._config.question(fingerprint, arithmetic, self._least)
        if self._keep is not None:
            asked["keep"] = ", ".join(f"{each.name} {each.type}" for each in self._keep)
        plain: dict[str, Any] = json.loads(json.dumps(asked))
        return plain

    @functools.cached_property
    def _keep(self) -> pa.StructType | None:
        """The type of the columns kept from the user's tables, as these are now."""
        config = self._config
        if not config.keep:
            return None
        kind = inputs.kept_type(config.images, config.keep, config.source_limits, config.columns)
        own = part_files.COLUMNS
        if not self._model.metadata.multi_label:
            own -= {part_files.HAS_LABELS}  # a name that users' tables have, too
        seen = {name: f"the results have their own column {name}" for name in own}
        for name in (each.name for each in kind):
            # DuckDB and Spark take names in any case.
            if (why := seen.get(name.lower())) is not None:
                raise UserInputError(
                    f"--keep {' '.join(config.keep)}: {why}; rename that column of the table, or keep other ones"
                )
            seen[name.lower()] = f"there are two columns {name}"
        return kind

    def _few(self, images: int, size: int) -> bool:
        """Whether this many images and bytes are done before Ray would have started."""
        return in_process.are_few(images, size) and in_process.may_run(self._config)

    def _are_few(self, plan: Plan, todo: Sequence[int]) -> bool:
        images = sum(plan.shard_images[shard] for shard in todo)
        return self._few(images, 0) and self._few(
            images, sum(in_process.size_of(plan.read_shard(shard)) for shard in todo)
        )

    def _connect(self) -> None:
        if not self._connected:
            self._connected = True
            config = self._config
            self._stack.enter_context(
                ray_quirks.connect(
                    config.address,
                    minimum_cpus=config.workers,
                    packages=("keras", "tensorflow") if config.engine == "tensorflow" else (),
                    labels=(config.node_label,),
                    install=config.install,
                )
            )

    def _first_draft(self) -> Draft:
        batches, where = self._listed()
        # Before the plan is written: a job without images is refused, and leaves nothing.
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            raise UserInputError(f"{' '.join(self._config.images)}: no images found{where}")
        draft = self._write(itertools.chain([first], batches))
        images = sum(draft.generation.images)
        self._counts = changes.Counts(0, images, 0, 0)
        counts = {"known": 0, "new": images}
        return dataclasses.replace(
            draft, generation=dataclasses.replace(draft.generation, counts=counts)
        )

    def _next_draft(self, plan: Plan) -> Draft | None:
        config = self._config
        listed = None if config.no_new else self._listed()[0]
        with contextlib.closing(changes.Changes(plan, listed)) as found:
            counts = self._counts = found.counts
            self._skips.add("named more than once", counts.repeated)
            rejected = list(self._rejected(plan)) if config.retry_rejected else []
            retried = sum(int(marks.sum()) for _, marks in rejected)
            told = {name: getattr(counts, name) for name in ("known", "new", "changed", "gone")}
            told["retried"] = retried
            dropped = counts.gone if config.drop_gone else 0
            self._observer.phase(
                f"{counted(counts.known, 'image')} known, {counts.new:,} new, "
                f"{counts.changed:,} changed, {counts.gone:,} gone"
                + (f", {retried:,} to try again" if retried else "")
            )
            if counts.gone > dropped:
                self._observer.phase(
                    f"the rows of {counted(counts.gone, 'image')} that the inputs named now do "
                    "not hold stay; --drop-gone removes them"
                )
            if not counts.new + counts.changed + retried + dropped:
                return None
            return self._write(
                found.new_entries(),
                before=plan,
                revised=found.revised(rejected, drop_gone=config.drop_gone),
                counts=told | {"dropped": dropped},
            )

    def _write(self, batches: Iterator[pa.RecordBatch], **more: Any) -> Draft:
        return drafts.draft(
            self._folder,
            batches,
            named=self._config.images,
            planned_at=_utc(),
            max_shard_images=_max_shard_images(self._model.metadata.preprocessing),
            progress=self._observer.planned,
            skips=self._skips,
            **more,
        )

    def _listed(self) -> tuple[Iterator[pa.RecordBatch], str]:
        """The entries of the inputs, and words for the part of them."""
        config, model, check = self._config, self._model, self._check
        self._skips = Skips()
        self._observer.phase("listing images")
        batches = inputs.list_images(
            config.images,
            config.source_limits,
            config.columns,
            self._skips,
            once=False,
            keep=self._keep,
        )
        where = ""
        if config.part is not None:
            validation, test = model.metadata.parts
            batches = _of_part(batches, config.part, validation, test)
            where = f" in the {config.part} part (--validation {validation:g} --test {test:g})"
        if check is not None:
            batches = (check(batch, model.metadata) for batch in batches)
        return self._measured(batches), where

    def _measured(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        images = self._listed_bytes = 0
        for batch in batches:
            images += batch.num_rows
            self._listed_bytes += in_process.size_of(batch)
            if not in_process.are_few(images, self._listed_bytes):
                self._size_known.set()  # before all of them are listed
            yield batch

    def _rejected(self, plan: Plan) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The shards with rejected images, and which of their images those are."""
        found = part_files.survey(plan)
        for shard in np.flatnonzero(found.rejected).tolist():
            errors = part_files.read_part(plan, shard, ["error"])["error"]
            if len(errors) != plan.shard_images[shard]:
                raise CatdogError(
                    f"{plan.output}: another command has just continued this job; run this one again"
                )
            yield shard, errors.is_valid().to_numpy()


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _of_part(
    batches: Iterator[pa.RecordBatch], part: Part, validation: float, test: float
) -> Iterator[pa.RecordBatch]:
    """The entries that belonged to this part in the model's training."""
    for batch in batches:
        names = batch.column("name").to_pylist()
        parts = [splits.part_of(name, validation=validation, test=test) for name in names]
        yield batch.filter(pa.array([each == part for each in parts]))


def _max_shard_images(preprocessing: Preprocessing) -> int:
    """A shard's pixels stay below the size at which Ray Data would split a block."""
    return max(1, _MAX_SHARD_BYTES // (preprocessing.height * preprocessing.width * 3))


def _refuse_unable(arithmetic: Arithmetic, label: str | None = None) -> None:
    """Refuse at the start if the cluster cannot compute as the job began."""
    no_gpu = not nodes.cluster_resources(label)[1]
    if arithmetic.device == "gpu" and no_gpu and not nodes.autoscales():
        raise UserInputError(
            "the job began on GPUs, and this cluster has none; continue it on a cluster with GPUs, "
            "or name another --output folder"
        )
    if arithmetic.needs_bfloat16:
        unable = nodes.without_bfloat16(label)
        if unable:
            nodes_unable = f"node {', '.join(unable)}"
            raise UserInputError(cannot_compute(nodes_unable, "take it out of the cluster"))


def _refuse_other_question(
    output: str, recorded: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    before, now = _flat(recorded), _flat(asked)
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    if changed:
        difference = "; ".join(
            f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed
        )
        raise UserInputError(
            f"--output {output}: holds the results of another job ({difference}); "
            "name another folder"
        )


def _flat(question: Mapping[str, Any]) -> dict[str, Any]:
    """A question's values by the names that users know: limits by their flags."""
    flat: dict[str, Any] = {}
    for name, value in question.items():
        if isinstance(value, dict):
            flat |= {f"--{limit.replace('_', '-')}": number for limit, number in value.items()}
        else:
            flat[name] = value
    return flat
