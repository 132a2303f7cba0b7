"""The classification job of the simulation, without Ray, and what must hold of its results."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.simulation.world import (
    Frozen,
    StoreError,
    Violation,
    World,
    content,
    stamp,
)
from catdog.classification import rounds
from catdog.errors import CatdogError, ErrorCode, ImageRejected, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, read_images
from catdog.results import changes, drafts, ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from catdog.results import Draft, PartCounts, Plan, Survey

LABELS = ("cat", "dog")
SHARD_IMAGES = 3  # small, so that a few images are several shards
_LIMITS = SourceLimits()


def answer(question: Mapping[str, Any], image: bytes) -> float:
    """What the model of a question says of an image: a probability that no other one has."""
    text = f"{question['model']} {question['precision']} ".encode() + image
    number = int.from_bytes(hashlib.sha256(text).digest()[:3], "big")
    return float(np.float32(0.5 + number / 2**26))


def is_broken(image: bytes) -> bool:
    """Whether it cannot be decoded, whoever tries: as it is, or because its end is missing."""
    return not image.endswith(b"end") or hashlib.sha256(image).digest()[0] < 20


class Job:
    """One command: what `rounds.run` asks for, as `classification.job` gives it, without Ray."""

    def __init__(self, world: World, question: dict[str, Any], *, retry: bool, drop: bool) -> None:
        self._world, self._question = world, question
        self._retry, self._drop = retry, drop
        self._run = f"{world.rng.getrandbits(64):016x}"

    def draft(self, plan: Plan | None) -> Draft | None:
        folder = self._world.folder
        if plan is None:
            return drafts.draft(folder, self._listed(), max_shard_images=SHARD_IMAGES)
        with contextlib.closing(changes.Changes(plan, self._listed())) as found:
            counts = found.counts
            rejected = list(self._rejected(plan)) if self._retry else []
            self._retry = False  # once a command
            gone = counts.gone if self._drop else 0
            if not counts.new + counts.changed + gone + len(rejected):
                return None
            return drafts.draft(
                folder,
                found.new_entries(),
                before=plan,
                revised=found.revised(rejected, drop_gone=self._drop),
                max_shard_images=SHARD_IMAGES,
            )

    def question(self) -> Mapping[str, Any]:
        return self._question

    def about(self) -> Mapping[str, Any]:
        return {"run": self._run}

    def refuse_another(self, recorded: Mapping[str, Any]) -> None:
        if dict(recorded) != self._question:
            raise UserInputError("the folder is another job's")

    def work(self, plan: Plan, found: Survey, todo: Sequence[int]) -> None:
        world = self._world
        left = list(todo)
        lost: list[int] = []

        def worker() -> None:
            while left:
                shard = left.pop(0)
                lost.append(shard)
                with contextlib.suppress(StoreError):
                    self._do(plan, shard, present=bool(found.present[shard]))
                    lost.remove(shard)

        driver = world.current
        assert driver is not None
        for _ in range(3):  # Ray tries a lost task again
            workers = [world.start("worker", worker) for _ in range(world.rng.randint(1, 2))]
            driver.awaited = workers
            while driver.idle():
                driver.wait()
            left += lost
            lost.clear()
            if not left:
                return
        raise CatdogError("too many workers were lost")

    def _do(self, plan: Plan, shard: int, *, present: bool) -> None:
        work = part_files.begin(plan, shard, present=present)
        if work is None:
            return
        self._world.pass_time()
        images = list(read_images(work.entries, _LIMITS, threads=1))
        self._world.pass_time()
        scores = np.zeros((len(images), 2), np.float32)
        errors = [self._rejection(image) for image in images]
        for at, image in enumerate(images):
            if isinstance(image, bytes):
                scores[at] = answer(self._question, image), 0
        names = ("width", "height", "format", "size", "error", "error_detail")
        nulls = pa.nulls(len(errors))
        outcome = pa.table(dict.fromkeys(names, nulls) | {"error": pa.array(errors, pa.string())})
        rows = part_files.build_rows(
            work.entries["uri"],
            outcome,
            scores,
            labels=LABELS,
            min_probability=0.0,
            model=self._question["model"],
        )
        part_files.finish(work, rows, labels=LABELS, run=self._run)

    def _rejection(self, image: bytes | ImageRejected) -> str | None:
        if isinstance(image, ImageRejected):
            return image.code.value
        if self._world.unruly and self._world.rng.random() < 0.1:
            return ErrorCode.UNREADABLE.value  # this time
        return ErrorCode.NOT_AN_IMAGE.value if is_broken(image) else None

    def _listed(self) -> list[pa.RecordBatch]:
        """The images, in chunks as they happen to come."""
        rows = [
            dict.fromkeys(PLAN_SCHEMA.names)
            | {"uri": uri, "name": uri, "size": len(content(uri, clock)), "codec": "file"}
            | {"stamp": stamp(uri, clock)}
            for uri, clock in sorted(self._world.images.items())
        ]
        batch = pa.RecordBatch.from_pylist(rows, PLAN_SCHEMA)
        cuts = sorted(self._world.rng.sample(range(len(rows) + 1), min(2, len(rows))))
        edges = [0, *cuts, len(rows)]
        return [batch.slice(start, end - start) for start, end in itertools.pairwise(edges)]

    def _rejected(self, plan: Plan) -> Iterator[tuple[int, Any]]:
        found = part_files.survey(plan)
        for shard in np.flatnonzero(found.rejected).tolist():
            errors = part_files.read_part(plan, shard, ["error"])["error"]
            if len(errors) != plan.shard_images[shard]:
                raise CatdogError("another command has just continued this job")
            yield shard, errors.is_valid().to_numpy()

    def summary(self, plan: Plan, counts: PartCounts) -> Mapping[str, Any]:
        rejected = sum(counts.errors.values())
        return {"planned": plan.images, "images": counts.images, "rejected": rejected}


# --------------------------------------------------------------------------------------------
# What must hold


def watch(world: World, written: str | None) -> None:
    """Look at the store from outside, now and then and where a summary has just appeared."""
    if written is None:
        check_readers(world)
    if written == ledger.SUMMARY_FILE or (written is None and ledger.SUMMARY_FILE in world.files):
        check_summary(world)


def check_readers(world: World) -> None:
    """Whoever reads all part files meets no image twice, and rows of one job alone."""
    seen: set[str] = set()
    models: set[str] = set()
    for name in world.files:
        if name.endswith(".parquet") and "/" not in name:
            rows = world.table(name)
            models |= set(rows["model"].to_pylist())
            for uri in rows["uri"].to_pylist():
                if uri in seen:
                    raise Violation(f"a reader meets {uri} twice")
                seen.add(uri)
    if len(models) > 1:
        raise Violation(f"a reader meets rows of {sorted(models)}")


def check_summary(world: World) -> None:
    """Where there is a summary, its generation is complete and right."""
    folder = Frozen(world.folder.uri, world)
    summary = json.loads(world.files[ledger.SUMMARY_FILE][0])
    plan = plans.read(folder)
    if plan is None:
        raise Violation("a summary without a plan")
    if summary["generation"] < plan.generation:
        return  # docs/protocol.md: it is taken away again, or by the next run
    check_rows(world, plan, summary)


def check_rows(world: World, plan: Plan, summary: Mapping[str, Any]) -> None:
    """Each planned image has one row, with the answer that the recorded job gives."""
    question = ledger.read_question(plan.folder)
    if question is None:
        raise Violation("a plan without a record")
    rows = rejected = 0
    for shard in range(plan.shards):
        name = plan.part_name(shard)
        if name not in world.files:
            raise Violation(f"{name} is missing, and the summary is there")
        entries, table = world.entries(plan, shard), world.table(name)
        if table["uri"].to_pylist() != entries["uri"].to_pylist():
            raise Violation(f"{name} holds other images than its shard")
        rows += table.num_rows
        rejected += table.num_rows - table["error"].null_count
        for row, known_as in zip(table.to_pylist(), entries["stamp"].to_pylist(), strict=True):
            _check_row(row, known_as, question)
    if not summary["planned"] == summary["images"] == rows:
        raise Violation(f"the summary tells of {summary['images']} images, there are {rows}")
    if summary["rejected"] != rejected:
        raise Violation(f"the summary tells of {summary['rejected']} rejected, not {rejected}")


def _check_row(row: Mapping[str, Any], known_as: str, question: Mapping[str, Any]) -> None:
    if row["model"] != question["model"]:
        raise Violation(f"{row['uri']} was classified by {row['model']}")
    image = content(row["uri"], int(known_as.partition("-")[2]))
    if row["error"] is None and row["probability"] != np.float32(answer(question, image)):
        raise Violation(f"{row['uri']} has the answer of another picture or precision")
    if row["error"] in {None, ErrorCode.NOT_AN_IMAGE.value} and (
        (row["error"] is None) == is_broken(image)
    ):
        raise Violation(f"{row['uri']} is {row['error'] or 'classified'}, and should not be")


# --------------------------------------------------------------------------------------------
# Its story


def tell(world: World) -> None:
    """A story of rival jobs in one folder, whose images change meanwhile, to its end.

    Raises:
        Violation: something does not hold.
    """
    rng = world.rng
    world.watch = lambda written: watch(world, written)
    for _ in range(rng.randint(1, 10)):
        world.put(rng.randrange(40))
    questions = [{"model": "m1", "precision": "float32"}]
    if rng.random() < 0.3:
        questions.append({"model": "m2", "precision": "float32"})
    if rng.random() < 0.3:
        questions.append({"model": "m1", "precision": "bfloat16"})
    check_identifiers(world)
    for _ in range(rng.randint(1, 3)):
        for _ in range(rng.choice([1, 1, 2, 2, 3])):
            question = rng.choice(questions)
            world.start("driver", driver(world, question, rng.random() < 0.3, rng.random() < 0.2))
        world.run()
        watch(world, None)
        if rng.random() < 0.6:
            world.change_images()
    finish(world)


def driver(world: World, question: dict[str, Any], retry: bool, drop: bool) -> Callable[[], None]:
    """The main function of a command that may be refused or fail, and that is given again."""

    def main() -> None:
        for _ in range(world.rng.randint(1, 3)):
            if world.images:
                job = Job(world, question, retry=retry, drop=drop)
                with contextlib.suppress(CatdogError):
                    rounds.run(world.folder, job, grow=True)
            if world.rng.random() < 0.7:
                world.change_images()

    return main


def finish(world: World) -> None:
    """When everything is quiet, the same command completes the results, and then has nothing to do."""
    world.unruly = world.late_names = False
    if not world.images:
        world.put(0)
    outcomes: list[tuple[Plan, Mapping[str, Any], bool]] = []

    def main() -> None:
        recorded = ledger.read_question(world.folder)
        question = dict(recorded) if recorded else {"model": "m1", "precision": "float32"}
        for _ in range(2):
            job = Job(world, question, retry=False, drop=False)
            outcomes.append(rounds.run(world.folder, job, grow=True))

    world.start("driver", main)
    world.run()
    plan, summary, _ = outcomes[0]
    if outcomes[1][2]:
        raise Violation("a finished job finds something to do")
    frozen = plans.read(Frozen(world.folder.uri, world))
    assert frozen is not None
    check_rows(world, frozen, summary)
    check_readers(world)
    entries = {
        uri: known_as
        for shard in range(frozen.shards)
        for uri, known_as in zip(
            *(world.entries(frozen, shard)[name].to_pylist() for name in ("uri", "stamp")),
            strict=True,
        )
    }
    if len(entries) != plan.images:
        raise Violation("an image is planned twice")
    for uri, clock in world.images.items():
        if entries.get(uri) != stamp(uri, clock):
            raise Violation(f"{uri} is not in the results as it is now")


def check_identifiers(world: World) -> None:
    """The same entries have the same identifier, however they come in chunks."""
    job = Job(world, {}, retry=False, drop=False)
    found = []

    def main() -> None:
        for _ in range(2):
            draft = drafts.draft(world.folder, job._listed(), max_shard_images=SHARD_IMAGES)  # noqa: SLF001
            found.append(draft.generation.identifier)
            draft.discard()

    unruly, world.unruly = world.unruly, False
    world.start("driver", main)
    world.run()
    world.unruly = unruly
    if len(set(found)) > 1:
        raise Violation("the same entries have two identifiers")
