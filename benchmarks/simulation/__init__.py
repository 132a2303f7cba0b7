"""Tests the ledger: simulates drivers, workers and a store in one process, reproducible by a seed.

    python -m benchmarks.simulation --seeds 100000
    python -m benchmarks.simulation --mutations

The code that plans, reads, processes and checks shards is the real one (`classification.rounds`, `results`,
`inputs.read_images`), and so is the code by which a training claims its folder (`training.claims`). The
store is a dictionary. The seed decides what happens between two operations on it (`world`).

On a violation the command prints its seed and exits with 1. `--mutations` breaks the code in known ways,
one at a time, and prints the first seed that finds each; it exits with 1 if a mutation is not found. Both
use all CPUs.
"""

from __future__ import annotations

import contextlib
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pyarrow.parquet as pq

from benchmarks.simulation import classification, training
from benchmarks.simulation.world import Violation, World
from catdog import scratch, storage
from catdog.results import drafts

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Told", "tell", "tell_each"]


def tell(seed: int) -> int:
    """One seed's stories, to their ends. The number of operations on the store.

    Raises:
        Violation: something does not hold.
    """
    operations = 0
    for story in (classification.tell, training.tell):
        world = World(seed)
        with _inside(world):
            story(world)
        operations += world.operations
    return operations


@contextlib.contextmanager
def _inside(world: World) -> Iterator[None]:
    """What the real code meets of the world; nothing is drawn, kept or compressed elsewhere."""

    def token(count: int) -> str:
        return f"{world.rng.getrandbits(8 * count):0{2 * count}x}"

    @contextlib.contextmanager
    def folder() -> Iterator[pathlib.Path]:
        yield pathlib.Path("/nonexistent")  # for what does not fit the memory, as all does

    with (
        mock.patch.object(drafts.secrets, "token_hex", token),
        mock.patch.object(storage.s3, "_get", world.get),
        mock.patch.object(scratch, "private_folder", folder),
        mock.patch.object(pq, "write_table", _uncompressed(pq.write_table)),
        mock.patch.object(pq, "ParquetWriter", _uncompressed(pq.ParquetWriter)),
    ):
        yield


def _uncompressed(write: Any) -> Any:
    return lambda *given, **options: write(*given, **options | {"compression": "none"})


class Told(NamedTuple):
    """What came of several stories.

    Attributes:
        operations: on the store.
        seed: the first one whose story breaks a promise.
        violation: what it breaks.
    """

    operations: int
    seed: int | None = None
    violation: str = ""


def tell_each(seeds: range) -> Told:
    """One story after the other, up to the first violation; a traceback is one as well."""
    operations = 0
    for seed in seeds:
        try:
            operations += tell(seed)
        except Violation as violation:
            return Told(operations, seed, str(violation))
        except Exception as error:
            return Told(operations, seed, f"{type(error).__name__}: {error}")
    return Told(operations)
