"""Many stories on all CPUs that this process may use, in a process for each."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from benchmarks.simulation import Told, faults, tell_each
from catdog import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BLOCK_SEEDS = 50  # some seconds: so long the others go on after a violation


def tell_all(seeds: range) -> Told:
    """The stories of these seeds, up to the first one that breaks a promise."""
    blocks = [seeds[at : at + _BLOCK_SEEDS] for at in range(0, len(seeds), _BLOCK_SEEDS)]
    operations = 0
    with contextlib.closing(_each([(None, block) for block in blocks])) as all_told:
        for told in all_told:
            operations += told.operations
            if told.seed is not None:
                return told._replace(operations=operations)
    return Told(operations)


def tell_faults(seeds: range) -> Iterator[tuple[str, Told]]:
    """Each fault, put back by itself, and the first seed that finds it, if any does."""
    names = list(faults.MUTATIONS)
    with contextlib.closing(_each([(name, seeds) for name in names])) as all_told:
        yield from zip(names, all_told, strict=True)


def _each(tasks: Sequence[tuple[str | None, range]]) -> Iterator[Told]:
    """What comes of each, in their order. Closing it leaves out those that were not begun."""
    pool = ProcessPoolExecutor(
        min(machine.usable_cpus(), len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_leave_imports_uncollected,
    )
    try:
        yield from pool.map(_tell, *zip(*tasks, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_imports_uncollected() -> None:
    """Each collection else walks through all modules; that is an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def _tell(fault: str | None, seeds: range) -> Told:
    with contextlib.nullcontext() if fault is None else faults.mutated(fault):
        return tell_each(seeds)
