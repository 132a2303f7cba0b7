"""Sums over the workers of one node."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from contextlib import closing

import numpy as np
import pytest

from catdog.runtime.all_reduce import SharedMemoryAllReduce

SHAPES = [(3, 5), (), (7,), (2, 1, 4)]


def arrays_of(worker, turn):
    random = np.random.default_rng([worker, turn])
    return [random.normal(size=shape).astype(np.float32) for shape in SHAPES]


def broadcast_by(mailbox, workers):
    """What Ray Train's broadcast does, by a queue: worker 0 puts it there for everyone."""

    def broadcast(value):
        if value is not None:
            for _ in range(workers - 1):
                mailbox.put(value)
            return value
        return mailbox.get()

    return broadcast


def work(worker, workers, mailbox, told, turns, deadly=None):
    """A worker that sums `turns` times; the one called `deadly` ends or stops before the last."""
    broadcast = broadcast_by(mailbox, workers)
    try:
        with closing(
            SharedMemoryAllReduce(worker, workers, 64, broadcast, timeout_s=2.0)
        ) as reduce:
            results = []
            for turn in range(turns):
                if turn == turns - 1 and deadly:
                    os.kill(os.getpid(), deadly)
                results.append([each.copy() for each in reduce.sum(arrays_of(worker, turn))])
            told.put((worker, results))
    except OSError as error:
        told.put((worker, f"{type(error).__name__}: {error}"))


def run(workers, turns, deadly=None):
    """What the workers told, as processes; the last one ends by the signal `deadly`."""
    context = multiprocessing.get_context("spawn")
    mailbox, told = context.Queue(), context.Queue()
    processes = [
        context.Process(
            target=work,
            args=(n, workers, mailbox, told, turns, deadly if n == workers - 1 else None),
        )
        for n in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        return dict(told.get(timeout=60) for _ in range(workers - bool(deadly)))
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("workers", [2, 3])
def test_every_worker_gets_the_same_sums(workers):
    """Many sums in a row: each is that of all workers' arrays, and the same bits everywhere."""
    told = run(workers, turns=50)
    for turn in range(50):
        expected = [
            np.sum(each, axis=0)
            for each in zip(*(arrays_of(worker, turn) for worker in range(workers)), strict=True)
        ]
        for worker in range(workers):
            for ours, theirs, first in zip(
                told[worker][turn], expected, told[0][turn], strict=True
            ):
                assert ours.shape == theirs.shape
                assert ours == pytest.approx(theirs, abs=1e-6)
                assert np.array_equal(ours, first)


def test_ended_worker_is_noticed():
    """SIGKILL of a worker: the others fail at once instead of waiting for it."""
    told = run(3, turns=3, deadly=signal.SIGKILL)
    assert set(told) == {0, 1}
    assert "another training worker ended" in told[0]


@pytest.mark.slow
def test_hanging_worker_is_noticed():
    """SIGSTOP of a worker: the others fail within the time, and say so."""
    told = run(2, turns=3, deadly=signal.SIGSTOP)
    assert "made no progress for 2 s" in told[0]


def test_too_many_numbers_are_refused():
    """Arrays beyond the capacity are an error, and not a write beyond the slot."""
    mailbox = queue.Queue()
    broadcast = broadcast_by(mailbox, 2)
    made = queue.Queue()
    other = threading.Thread(
        target=lambda: made.put(SharedMemoryAllReduce(1, 2, 16, broadcast, timeout_s=5.0))
    )
    other.start()
    with (
        closing(SharedMemoryAllReduce(0, 2, 16, broadcast, timeout_s=5.0)) as reduce,
        pytest.raises(ValueError, match="32 numbers are more than the capacity, 16"),
    ):
        reduce.sum([np.zeros(17, np.float32)])
    other.join()
    made.get().close()
