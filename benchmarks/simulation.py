"""The ledger, tried: drivers, workers and a store as one process that a seed repeats.

    python -m benchmarks.simulation --seeds 100000
    python -m benchmarks.simulation --mutations

The code that plans, does shards, looks at them and tells that all is done is the real one
(`classification.rounds`, `results`). The store is a dictionary, and before each operation on it the
scheduler decides who goes on: another driver, one of a driver's workers, somebody who changes the
images, or a signal that kills. An operation may fail before or after it took effect, and names may be
seen late. Nothing else is random, so a seed is one story that can be told again.

A violation is exit code 1 with its seed. `--mutations` breaks the code in known ways, one at a time, and
says after how many seeds each is found; one that is not found is exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import itertools
import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catdog.classification import rounds
from catdog.errors import CatdogError, UserInputError
from catdog.inputs import PLAN_SCHEMA
from catdog.results import Folder, changes, drafts, ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from catdog.results import Draft, PartCounts, Plan, Survey

LABELS = ("cat", "dog")
_TOLD = itertools.count()
SHARD_IMAGES = 3  # small, so that a few images are several shards
MUTATION_SEEDS = 2_000


class Violation(Exception):
    """Something does not hold that docs/protocol.md promises."""


class Killed(BaseException):
    """The end of a simulated process."""


class StoreError(CatdogError):
    """An operation failed, as far as the process knows."""


# --------------------------------------------------------------------------------------------
# Processes and their turns


class Process:
    """A driver or a worker: a thread that runs only in its turn."""

    def __init__(self, world: World, name: str, main: Callable[[], None]) -> None:
        self.name, self.killed, self.ended, self.sleeps = name, False, False, 0
        self._world, self._main = world, main
        self._turn = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self.killed:
                self._main()
        except Killed:
            pass
        except BaseException as error:
            self._world.failure = self._world.failure or error
        self.ended = True
        self._world.control.release()

    def go_on(self) -> None:
        """Let it run up to its next operation."""
        self._world.current = self
        self._turn.release()
        self._world.control.acquire()

    def wait(self) -> None:
        """Called by the process itself: others may come first, and it may not live to see the end."""
        if not self.killed:
            self._world.control.release()
            self._turn.acquire()
        if self.killed:
            raise Killed


class World:
    """A store, the images that there are, and everybody who works with them."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.control = threading.Semaphore(0)
        self.current: Process | None = None
        self.processes: list[Process] = []
        self.failure: BaseException | None = None
        self.files: dict[str, tuple[bytes, int]] = {}
        self.versions = 0
        self.operations = 0
        self.earlier: list[set[str]] = [set()]  # names after each operation, the last few
        self.unruly = True  # whether operations fail and processes are killed
        self.late_names = self.rng.random() < 0.2  # as on NFS
        self.sluggish = self.rng.random() < 0.3
        self.images: dict[str, int] = {}
        self.history: dict[str, set[int]] = {}
        self.clock = 0
        # Folders of one URI are one folder, and what is read of its plan is kept.
        self.folder = SimulatedFolder(f"simulated://{seed}/{next(_TOLD)}", self)

    def change_images(self) -> None:
        """Add, replace or take away some images."""
        for _ in range(self.rng.randint(1, 4)):
            self.clock += 1
            what = self.rng.random()
            if what < 0.55 or not self.images:
                self.put(f"{self.rng.randrange(40)}.jpg")
            elif what < 0.85:
                self.put(self.rng.choice(sorted(self.images)))
            else:
                del self.images[self.rng.choice(sorted(self.images))]

    def put(self, uri: str) -> None:
        """An image with new content."""
        self.clock += 1
        self.images[uri] = self.clock
        self.history.setdefault(uri, set()).add(self.clock)

    def start(self, name: str, main: Callable[[], None]) -> Process:
        """Another process."""
        process = Process(self, name, main)
        self.processes.append(process)
        return process

    def run(self) -> None:
        """Give turns until all processes have ended."""
        while alive := [each for each in self.processes if not each.ended]:
            for each in alive:
                each.sleeps = max(0, each.sleeps - 1)
            chosen = self.rng.choice([each for each in alive if not each.sleeps] or alive)
            if self.unruly and self.rng.random() < (0.06 if self.sluggish else 0.01):
                # Swapped out, or cut off for a while: others may finish and begin anew meanwhile.
                chosen.sleeps = self.rng.choice([20, 100, 400, 2000])
                continue
            if self.unruly and self.rng.random() < 0.012:
                chosen.killed = True
            if self.unruly and self.rng.random() < 0.02:
                self.change_images()
            chosen.go_on()
            if self.failure is not None:
                for each in self.processes:
                    each.killed = True
                    if not each.ended:
                        each.go_on()
                raise self.failure
        self.processes.clear()

    def operation(self, effect: Callable[[], Any], *, reads: bool = False) -> Any:
        """One operation on the store by the process whose turn it is."""
        assert self.current is not None
        self.current.wait()
        failing = self.unruly and not reads and self.rng.random() < 0.006
        if failing and self.rng.random() < 0.5:
            raise StoreError("the store does not answer")
        result = effect()
        self.operations += 1
        self.earlier = [*self.earlier[-3:], set(self.files)]
        if self.rng.random() < 0.05:
            check_readers(self)
        if failing:
            raise StoreError("the store's answer was lost")
        return result

    def set_file(self, name: str, data: bytes) -> None:
        """What every write comes to."""
        self.versions += 1
        self.files[name] = data, self.versions
        if name == ledger.SUMMARY_FILE:
            check_summary(self)


def _right_below(folder: str, names: Iterable[str]) -> list[str]:
    """What `Folder.names` says of a folder, "" for the whole store."""
    start = f"{folder}/" if folder else ""
    inside = {name[len(start) :] for name in names if name.startswith(start)}
    return sorted({name.partition("/")[0] + "/" * ("/" in name) for name in inside})


@dataclasses.dataclass(frozen=True, eq=False)
class SimulatedFolder(Folder):
    """`results.Folder` on the dictionary: each method one operation, atomic as its docstring there says."""

    world: World = dataclasses.field(repr=False, default=None)  # type: ignore[assignment]

    def names(self, below: str = "") -> list[str]:
        def look() -> list[str]:
            world = self.world
            seen = world.rng.choice(world.earlier) if world.late_names else set(world.files)
            return _right_below(below, {name for name in seen if name in world.files})

        found: list[str] = self.world.operation(look, reads=True)
        return found

    def read(self, name: str) -> tuple[bytes, str] | None:
        def look() -> tuple[bytes, str] | None:
            found = self.world.files.get(name)
            return None if found is None else (found[0], str(found[1]))

        answer: tuple[bytes, str] | None = self.world.operation(look, reads=True)
        return answer

    def open(self, name: str) -> Any:
        found = self.read(name)
        if found is None:
            raise FileNotFoundError(name)
        return io.BytesIO(found[0])

    def create(self, name: str, data: bytes) -> bool:
        def effect() -> bool:
            if name not in self.world.files:
                self.world.set_file(name, data)
            return self.world.files[name][0] == data

        return bool(self.world.operation(effect))

    def replace(self, name: str, data: bytes, version: str) -> bool:
        def effect() -> bool:
            there = self.world.files.get(name)
            if there is not None and str(there[1]) == version:
                self.world.set_file(name, data)
                return True
            return there is not None and there[0] == data

        return bool(self.world.operation(effect))

    def remove(self, name: str, version: str) -> None:
        def effect() -> None:
            there = self.world.files.get(name)
            if there is not None and str(there[1]) == version:
                del self.world.files[name]

        self.world.operation(effect)

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Any]:
        buffer = io.BytesIO()
        yield buffer
        data = buffer.getvalue()
        self.world.operation(lambda: self.world.set_file(name, data))

    def discard(self, name: str) -> None:
        self.world.operation(lambda: self.world.files.pop(name, None))

    def each(self, function: Any, items: Any) -> Iterator[Any]:
        return map(function, items)


# --------------------------------------------------------------------------------------------
# A job


def answer(question: Mapping[str, Any], uri: str, stamp: str) -> float:
    """What the model of a question says of an image: a probability that no other one has."""
    text = f"{question['model']} {question['precision']} {uri} {stamp}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:3], "big")
    return float(np.float32(0.5 + number / 2**26))


def is_broken(uri: str, stamp: str) -> bool:
    """Whether an image is one that cannot be decoded, whoever tries."""
    return hashlib.sha256(f"{uri} {stamp}".encode()).digest()[0] < 20


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
            while any(not each.ended for each in workers):
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
        uris = work.entries["uri"].to_pylist()
        stamps = work.entries["stamp"].to_pylist()
        scores = np.zeros((len(uris), 2), np.float32)
        errors: list[str | None] = []
        for at, (uri, stamp) in enumerate(zip(uris, stamps, strict=True)):
            if not at:
                self._world.operation(lambda: None, reads=True)  # time passes while images are read
            errors.append(self._read(uri, stamp))
            scores[at] = answer(self._question, uri, self._seen(uri, stamp)), 0
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

    def _read(self, uri: str, stamp: str) -> str | None:
        """Why an image is rejected, by the rule of `inputs.reading`: its stamp is looked at."""
        if self._world.images.get(uri) is None:
            return "missing"
        if str(self._world.images[uri]) != stamp:
            return "changed"
        if self._world.unruly and self._world.rng.random() < 0.03:
            return "unreadable"  # this time
        return "not-an-image" if is_broken(uri, stamp) else None

    def _seen(self, uri: str, stamp: str) -> str:
        return str(self._world.images.get(uri, stamp))

    def _listed(self) -> list[pa.RecordBatch]:
        """The images, in chunks as they happen to come."""
        rows = [
            dict.fromkeys(PLAN_SCHEMA.names)
            | {"uri": uri, "name": uri, "size": 1, "stamp": str(stamp)}
            for uri, stamp in sorted(self._world.images.items())
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
                raise CatdogError("another command has just gone on here")
            yield shard, errors.is_valid().to_numpy()

    def summary(self, plan: Plan, counts: PartCounts) -> Mapping[str, Any]:
        return {"planned": plan.images, "images": counts.images}


# --------------------------------------------------------------------------------------------
# What must hold


class _Frozen(SimulatedFolder):
    """The folder as it is now, for whoever looks from outside: no operation, nobody's turn."""

    def names(self, below: str = "") -> list[str]:
        return _right_below(below, self.world.files)

    def read(self, name: str) -> tuple[bytes, str] | None:
        found = self.world.files.get(name)
        return None if found is None else (found[0], str(found[1]))


def check_readers(world: World) -> None:
    """Whoever reads all part files meets no image twice, and rows of one job alone."""
    seen: set[str] = set()
    models: set[str] = set()
    for name, (data, _) in world.files.items():
        if name.endswith(".parquet") and "/" not in name:
            rows = pq.read_table(io.BytesIO(data), columns=["uri", "model"])
            models |= set(rows["model"].to_pylist())
            for uri in rows["uri"].to_pylist():
                if uri in seen:
                    raise Violation(f"a reader meets {uri} twice")
                seen.add(uri)
    if len(models) > 1:
        raise Violation(f"a reader meets rows of {sorted(models)}")


def check_summary(world: World) -> None:
    """Where a summary has just appeared, its generation is complete and right."""
    import json

    folder = _Frozen(world.folder.uri, world)
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
    rows = 0
    for shard in range(plan.shards):
        name = plan.part_name(shard)
        if name not in world.files:
            raise Violation(f"{name} is missing, and the summary is there")
        entries = plan.read_shard(shard)
        table = pq.read_table(io.BytesIO(world.files[name][0]))
        if table["uri"].to_pylist() != entries["uri"].to_pylist():
            raise Violation(f"{name} holds other images than its shard")
        rows += table.num_rows
        for row, stamp in zip(table.to_pylist(), entries["stamp"].to_pylist(), strict=True):
            if row["model"] != question["model"]:
                raise Violation(f"{row['uri']} was classified by {row['model']}")
            right = answer(question, row["uri"], stamp)
            if row["error"] is None and row["probability"] != np.float32(right):
                raise Violation(f"{row['uri']} has the answer of another picture or precision")
            if row["error"] is None and is_broken(row["uri"], stamp):
                raise Violation(f"{row['uri']} cannot be decoded and has an answer")
    if not summary["planned"] == summary["images"] == rows:
        raise Violation(f"the summary tells of {summary['images']} images, there are {rows}")


# --------------------------------------------------------------------------------------------
# A story


def tell(seed: int) -> int:
    """One seed's story, to its end. The number of operations on the store.

    Raises:
        Violation: something does not hold.
    """
    world = World(seed)
    rng = world.rng
    for _ in range(rng.randint(1, 10)):
        world.put(f"{rng.randrange(40)}.jpg")
    questions = [{"model": "m1", "precision": "float32"}]
    if rng.random() < 0.3:
        questions.append({"model": "m2", "precision": "float32"})
    if rng.random() < 0.3:
        questions.append({"model": "m1", "precision": "bfloat16"})
    tokens = mock.patch.object(
        drafts.secrets, "token_hex", lambda count: f"{rng.getrandbits(8 * count):0{2 * count}x}"
    )
    with tokens:
        check_identifiers(world)
        for _ in range(rng.randint(1, 3)):
            for _ in range(rng.choice([1, 1, 2, 2, 3])):
                question = rng.choice(questions)
                world.start(
                    "driver", driver(world, question, rng.random() < 0.3, rng.random() < 0.2)
                )
            world.run()
            if rng.random() < 0.6:
                world.change_images()
        finish(world)
    return world.operations


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
        world.put("0.jpg")
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
    frozen = plans.read(_Frozen(world.folder.uri, world))
    assert frozen is not None
    check_rows(world, frozen, summary)
    check_readers(world)
    entries = {
        uri: stamp
        for shard in range(frozen.shards)
        for uri, stamp in zip(
            *(frozen.read_shard(shard)[name].to_pylist() for name in ("uri", "stamp")), strict=True
        )
    }
    if len(entries) != plan.images:
        raise Violation("an image is planned twice")
    for uri, stamp in world.images.items():
        if entries.get(uri) != str(stamp):
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


# --------------------------------------------------------------------------------------------
# Faults, put back in


def _identity_without_precision(question: Mapping[str, Any]) -> str:
    return hashlib.sha256(str(question["model"]).encode()).hexdigest()


def _refuses_other_models_only(self: Job, recorded: Mapping[str, Any]) -> None:
    if recorded["model"] != self._question["model"]:
        raise UserInputError("the folder is another job's")


def _read_then_write(folder: Any, question: Any, about: Any) -> dict[str, Any]:
    if folder.read(ledger.RUN_FILE) is None:
        with folder.write(ledger.RUN_FILE) as file:
            file.write(ledger.as_json({**about, "question": question}))
    return dict(question)


def _digest_of_buffers(rows: pa.Table, columns: Sequence[str]) -> str:
    sha = hashlib.sha256()
    for name in columns:
        for chunk in rows[name].chunks:
            for buffer in chunk.buffers():
                sha.update(buffer or b"")
    return sha.hexdigest()[:32]


def _hashes_of_four_bits(texts: Any) -> Any:
    found = [
        int(hashlib.sha256(str(text).encode()).hexdigest()[0], 16) for text in texts.to_pylist()
    ]
    return np.array([found, found], np.uint64).T.reshape(-1, 2)


def _no_look_at_stamps(self: Job, uri: str, stamp: str) -> str | None:
    world = self._world
    if uri not in world.images:
        return "missing"
    return "not-an-image" if is_broken(uri, stamp) else None


def _blind_replace(self: SimulatedFolder, name: str, data: bytes, version: str) -> bool:  # noqa: ARG001
    self.world.operation(lambda: self.world.set_file(name, data))
    return True


def _counts_alone(self: Any, plan: Plan, shard: int, model: str | None = None) -> str | None:  # noqa: ARG001
    return (
        None if self.counts.images == plan.shard_images[shard] else "holds another number of rows"
    )


def _blind_create(self: SimulatedFolder, name: str, data: bytes) -> bool:
    self.world.operation(lambda: self.world.set_file(name, data))
    return True


def _nothing_left(self: Any, sizes: Sequence[int]) -> list[int]:  # noqa: ARG001
    return [] if self.done.mean() >= 0.5 else np.flatnonzero(~self.done).tolist()


MUTATIONS: dict[str, list[Any]] = {
    "1 precision is not in the identity": [
        mock.patch.object(ledger, "identity", _identity_without_precision),
        mock.patch.object(Job, "refuse_another", _refuses_other_models_only),
    ],
    "2 the record is read, then written": [mock.patch.object(ledger, "begin", _read_then_write)],
    "3 identifiers hash Arrow's buffers": [mock.patch.object(drafts, "digest", _digest_of_buffers)],
    "4 images are told apart by four bits": [
        mock.patch.object(changes.inputs, "hashes", _hashes_of_four_bits)
    ],
    "5 reading does not look at the source's stamp": [
        mock.patch.object(Job, "_read", _no_look_at_stamps)
    ],
    "6 a part is replaced whatever is there, and checked by its number of rows": [
        mock.patch.object(SimulatedFolder, "replace", _blind_replace),
        mock.patch.object(part_files.Part, "fault", _counts_alone),
    ],
    "a part is checked by its number of rows": [
        mock.patch.object(part_files.Part, "fault", _counts_alone)
    ],
    "files are written without looking whether there are any": [
        mock.patch.object(SimulatedFolder, "create", _blind_create)
    ],
    "half of the shards are enough": [mock.patch.object(part_files.Survey, "todo", _nothing_left)],
}


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The code with one fault put back in."""
    with contextlib.ExitStack() as stack:
        for patch in MUTATIONS[name]:
            stack.enter_context(patch)
        yield


def mutations(seeds: int) -> int:
    """Put each fault back and look for it. The number that was not found."""
    escaped = 0
    for name in MUTATIONS:
        with mutated(name):
            found = first_violation(range(seeds))
        if found is None:
            escaped += 1
            sys.stdout.write(f"ESCAPED in {seeds:,} seeds: {name}\n")
        else:
            sys.stdout.write(f"found by seed {found[0]:,}: {name} ({found[1]})\n")
        sys.stdout.flush()
    return escaped


def first_violation(seeds: range) -> tuple[int, str] | None:
    """The first seed whose story breaks a promise, and which; a traceback is one as well."""
    for seed in seeds:
        try:
            tell(seed)
        except Violation as violation:
            return seed, str(violation)
        except Exception as error:
            return seed, f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """Tell stories, and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutations", action="store_true")
    options = parser.parse_args()
    if options.mutations:
        return 1 if mutations(MUTATION_SEEDS) else 0
    started, operations = time.monotonic(), 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            operations += tell(seed)
        except Exception as error:
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {error}\n")
            return 1
    seconds = time.monotonic() - started
    sys.stdout.write(
        f"{options.seeds:,} seeds from {options.first:,}: no violation in {operations:,} operations, "
        f"{seconds:.0f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
