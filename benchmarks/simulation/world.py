"""The simulated world: a store, the images that there are, and processes that take turns.

Before each operation on the store the scheduler decides who goes on: another process, somebody who
changes the images, or a signal that kills. An operation may fail before or after it took effect, and
names may be seen late. Nothing else is random, so a seed is one story that can be told again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import random
import threading
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from catdog import storage
from catdog.errors import CatdogError
from catdog.results import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from catdog.results import Plan

_TOLD = itertools.count()


class Violation(Exception):
    """Something does not hold that docs/protocol.md promises."""


class Killed(BaseException):
    """The end of a simulated process."""


class StoreError(CatdogError):
    """An operation failed, as far as the process knows."""


def _closed_gate() -> threading.Lock:
    """One waits for it (`acquire`), another one opens it (`release`)."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Process:
    """A driver or a worker: a thread that runs only in its turn."""

    def __init__(self, world: World, name: str, main: Callable[[], None]) -> None:
        self.name, self.killed, self.ended, self.sleeps = name, False, False, 0
        self.awaited: list[Process] = []
        self._world, self._main = world, main
        self._turn = _closed_gate()
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
            self._world.fail(error)
        self.ended = True
        self._world.pass_on()

    def idle(self) -> bool:
        """Whether it waits for other processes."""
        return any(not each.ended for each in self.awaited)

    def go_on(self) -> None:
        """Let it run up to its next operation."""
        self._turn.release()

    def wait(self) -> None:
        """Called by the process itself: others may come first, and it may not live to see the end."""
        if not self.killed and self._world.choose() is not self:
            self._world.pass_on(chosen=True)
            self._turn.acquire()
        if self.killed:
            raise Killed


class World:
    """A store, the images that there are, and everybody who works with them.

    Attributes:
        watch: called with the name of a file that was just written, and with None now and then.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self._all_ended = _closed_gate()
        self.current: Process | None = None
        self.processes: list[Process] = []
        self.failure: BaseException | None = None
        self.files: dict[str, tuple[bytes, int]] = {}
        self.versions = 0
        self.operations = 0
        self.earlier: list[frozenset[str]] = [frozenset()]  # names, after the last few changes
        self.watch: Callable[[str | None], None] = lambda _: None
        self.unruly = True  # whether operations fail and processes are killed
        self.late_names = self.rng.random() < 0.2  # as on NFS
        self.sluggish = self.rng.random() < 0.3
        self.images: dict[str, int] = {}
        self.clock = 0
        self._tables: dict[int, pa.Table] = {}
        self._entries: dict[tuple[str, int], pa.Table] = {}
        # Folders of one URI are one folder, and what is read of its plan is kept.
        self.folder = SimulatedFolder(f"simulated://{seed}/{next(_TOLD)}", self)

    # ---------------------------------------------------------------- images

    def change_images(self) -> None:
        """Add, replace or take away some images."""
        for _ in range(self.rng.randint(1, 4)):
            self.clock += 1
            what = self.rng.random()
            if what < 0.55 or not self.images:
                self.put(self.rng.randrange(40))
            elif what < 0.85:
                self.images[self.rng.choice(sorted(self.images))] = self.clock
            else:
                del self.images[self.rng.choice(sorted(self.images))]

    def put(self, number: int) -> None:
        """An image with new content."""
        self.clock += 1
        self.images[f"s3://photos/{number}.jpg"] = self.clock

    def get(self, uri: str, offset: int, length: int, etag: str) -> tuple[bytes, int, str]:
        """What an S3 store answers: the bytes, the size of the object, and its ETag."""
        if uri not in self.images:
            raise FileNotFoundError(uri)
        now = self.images[uri]
        if etag and etag != str(now):
            raise FileExistsError(uri)
        data = content(uri, now)
        if self.unruly and self.rng.random() < 0.05:
            data = data[: self.rng.randrange(1, len(data))]  # with status 200, as if that were all
        return data[offset : offset + length], len(data), str(now)

    # ---------------------------------------------------------------- turns

    def start(self, name: str, main: Callable[[], None]) -> Process:
        """Another process."""
        process = Process(self, name, main)
        self.processes.append(process)
        return process

    def run(self) -> None:
        """Give turns until all processes have ended."""
        self.pass_on()
        self._all_ended.acquire()
        self.processes.clear()
        if self.failure is not None:
            raise self.failure

    def pass_on(self, *, chosen: bool = False) -> None:
        """Let another process go on: the one that was chosen, or one to be chosen."""
        following = self.current if chosen else self.choose()
        if following is None:
            self._all_ended.release()
        else:
            following.go_on()

    def fail(self, error: BaseException) -> None:
        """End the story."""
        self.failure = self.failure or error
        for each in self.processes:
            each.killed = True

    def choose(self) -> Process | None:
        """Whose turn it is: `current` from now on. None where all have ended."""
        while alive := [each for each in self.processes if not each.ended]:
            if self.failure is not None:
                self.current = alive[0]
                return self.current
            for each in alive:
                each.sleeps = max(0, each.sleeps - 1)
            able = [each for each in alive if not each.idle()]
            chosen = self.rng.choice([each for each in able if not each.sleeps] or able)
            if self.unruly and self.rng.random() < (0.06 if self.sluggish else 0.01):
                # Swapped out, or cut off for a while: others may finish and begin anew meanwhile.
                chosen.sleeps = self.rng.choice([20, 100, 400, 2000])
                continue
            if self.unruly and self.rng.random() < 0.012:
                chosen = self.rng.choice(alive)  # a driver that waits for its workers among them
                chosen.killed = True
            if self.unruly and self.rng.random() < 0.02:
                self.change_images()
            self.current = chosen
            return chosen
        self.current = None
        return None

    def pass_time(self) -> None:
        """What takes long: others may get far meanwhile."""
        assert self.current is not None
        if self.unruly and self.rng.random() < 0.2:
            self.current.sleeps = self.rng.choice([20, 100, 400])
        self.current.wait()

    # ---------------------------------------------------------------- the store

    def operation(self, effect: Callable[[], Any], *, reads: bool = False) -> Any:
        """One operation on the store by the process whose turn it is."""
        assert self.current is not None
        self.current.wait()
        failing = self.unruly and not reads and self.rng.random() < 0.006
        if failing and self.rng.random() < 0.5:
            raise StoreError("the store does not answer")
        result = effect()
        self.operations += 1
        if not reads:
            self.earlier = [*self.earlier[-3:], frozenset(self.files)]
        if self.rng.random() < 0.05:
            self.watch(None)
        if failing:
            raise StoreError("the store's answer was lost")
        return result

    def set_file(self, name: str, data: bytes) -> None:
        """What every write comes to."""
        self.versions += 1
        self.files[name] = data, self.versions
        self.watch(name)

    def table(self, name: str) -> pa.Table:
        """A Parquet file."""
        data, version = self.files[name]
        if version not in self._tables:
            self._tables[version] = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
        return self._tables[version]

    def entries(self, plan: Plan, shard: int) -> pa.Table:
        """The entries of a shard; its file is never written again."""
        number, group = plan._place(shard)  # noqa: SLF001
        key = plan.generations[number - 1].token, group
        if key not in self._entries:
            self._entries[key] = plan.read_shard(shard)
        return self._entries[key]


def content(uri: str, clock: int) -> bytes:
    """An image as it was put at a time: what decoding and scoring see of it."""
    return f"{uri} {clock} {'.' * (clock % 3)}end".encode()


def stamp(uri: str, clock: int) -> str:
    """By which reading knows it again."""
    size_and_etag: str = storage.s3._stamp(len(content(uri, clock)), str(clock))  # noqa: SLF001
    return size_and_etag


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


class Frozen(SimulatedFolder):
    """The folder as it is now, for whoever looks from outside: no operation, nobody's turn."""

    def names(self, below: str = "") -> list[str]:
        return _right_below(below, self.world.files)

    def read(self, name: str) -> tuple[bytes, str] | None:
        found = self.world.files.get(name)
        return None if found is None else (found[0], str(found[1]))
