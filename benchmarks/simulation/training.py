"""Trainings that claim one folder, with and without locks in the store, and what must hold of it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.simulation.world import Process, Violation, World
from catdog.errors import CatdogError, UserInputError
from catdog.model import folders
from catdog.training import TrainConfig, claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MODEL = f"{folders.RUN_SUBFOLDER}/{folders.METADATA_FILE}"
_AT_WORK = "another `catdog train` is at work in it"


class Store:
    """What `claims` asks of `catdog.storage`, on the world's dictionary."""

    def __init__(self, world: World) -> None:
        self._folder = world.folder
        self._files = world.files

    def join(self, *parts: str) -> str:
        return "/".join(parts)

    def is_local(self, uri: str) -> bool:
        return False

    def exists(self, uri: str) -> bool:
        return self._folder.read(self._name(uri)) is not None

    def read_bytes(self, uri: str, most: int) -> bytes:
        found = self._folder.read(self._name(uri))
        if found is None:
            raise FileNotFoundError(uri)
        return found[0]

    def list_names(self, uri: str) -> list[str]:
        return self._folder.names()

    def write_new(self, uri: str, data: bytes) -> bool:
        return self._folder.create(self._name(uri), data)

    def delete(self, uri: str) -> None:
        self._folder.discard(self._name(uri))

    def _name(self, uri: str) -> str:
        return uri.removeprefix(f"{self._folder.uri}/")


class Owner:
    """Who is at work: a lock that ends with its process, on the record's file or beside it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._on_file = world.rng.random() < 0.5
        self._holders: dict[int, Process] = {}

    @contextlib.contextmanager
    def owned(self, config: TrainConfig, output: str) -> Iterator[claims.Claim]:
        """As `claims._owned`."""
        world = self._world
        version = world.operation(self._take)
        try:
            if self._on_file and world.operation(self._version, reads=True) != version:
                raise UserInputError(_AT_WORK)
            yield claims.Claim(finished=False)
        finally:
            self._holders.pop(version, None)

    def _version(self) -> int:
        there = self._world.files.get(claims.CONFIG_FILE)
        return -1 if there is None else there[1]

    def _take(self) -> int:
        version = self._version() if self._on_file else 0
        if version < 0:
            raise CatdogError("the command that had begun has just given up")
        holder = self._holders.get(version)
        assert self._world.current is not None
        if holder is not None and not (holder.killed or holder.ended):
            raise UserInputError(_AT_WORK)
        self._holders[version] = self._world.current
        return version


def tell(world: World) -> None:
    """A story of trainings that begin, fail, are killed and begin again in one folder.

    Raises:
        Violation: something does not hold.
    """
    rng, finished = world.rng, set[int]()
    world.late_names = (
        False  # nobody is told late of what he wrote himself, and no more is asked for
    )
    with (
        mock.patch.object(claims, "storage", Store(world)),
        mock.patch.object(claims, "_owned", Owner(world).owned),
    ):
        for _ in range(rng.randint(1, 3)):
            for _ in range(rng.randint(1, 3)):
                world.start("training", _training(world, rng.randint(1, 2), finished))
            world.run()
            _check(world)
        world.unruly = False
        record = world.files.get(claims.CONFIG_FILE)
        seed = 1 if record is None else json.loads(record[0])["recipe"]["seed"]
        world.start("training", _training(world, seed, finished))
        world.run()
        _check(world)
    if seed not in finished:
        raise Violation("the training that the folder belongs to does not come to its end")


def _training(world: World, seed: int, finished: set[int]) -> Callable[[], None]:
    config = TrainConfig(images=("photos",), output="run", architecture="compact", seed=seed)

    def write(name: str) -> None:
        with world.folder.write(name) as file:
            file.write(json.dumps(seed).encode())
        _check(world)

    def main() -> None:
        with (
            contextlib.suppress(CatdogError),
            claims.claimed(config, world.folder.uri, {}) as claim,
        ):
            if not claim.finished:
                if world.unruly and world.rng.random() < 0.2:
                    raise UserInputError("no images")
                for _ in range(2):
                    write(claims.ORDER_FILE)
                write(_MODEL)
            finished.add(seed)

    return main


def _check(world: World) -> None:
    """All that is in the folder is of the training that its record names."""
    found: dict[str, Any] = {name: json.loads(data) for name, (data, _) in world.files.items()}
    record = found.pop(claims.CONFIG_FILE, None)
    seeds = {json.dumps(seed) for seed in found.values()}
    if record is not None:
        seeds.add(json.dumps(record["recipe"]["seed"]))
    if len(seeds) > 1 or (found and record is None):
        raise Violation(f"the folder of a training holds files of the seeds {sorted(seeds)}")
