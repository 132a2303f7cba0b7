"""Jobs in processes of their own, what to end of them, and how to compare what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa


def catdog(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The command in a process of its own; in a cluster of its own, too, without RAY_ADDRESS."""
    return subprocess.Popen(
        [sys.executable, "-m", "catdog", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    """Waits until the condition holds; fails after so long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def actors() -> Iterator[int]:
    """Process ids of the classifying actors of this test session."""
    return _own_processes(
        lambda command: command.startswith(b"ray::MapWorker") and b"ClassifyShards" in command
    )


def actor_at_work(besides: int = 0) -> int:
    """The process of a classifying actor of this test session that is at a shard; waits for it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in _own_processes(
            lambda command: b"ClassifyShards" in command and b".submit" in command
        ):
            if process != besides:
                return process
        time.sleep(0.05)
    raise AssertionError("no actor is at work")


def training_workers() -> Iterator[int]:
    """Process ids of the training workers of this test session."""
    return _own_processes(lambda command: b"RayTrainWorker" in command)


def decoders() -> Iterator[int]:
    """Process ids of the processes of this test session that decode."""
    return _own_processes(lambda command: b"catdog.pixels.child" in command)


def _own_processes(wanted: Callable[[bytes], bool]) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                if wanted(command) and os.getpid() in _ancestors(int(entry.name)):
                    yield int(entry.name)
            except OSError:
                continue


def _ancestors(process: int) -> Iterator[int]:
    while process > 1:
        status = Path(f"/proc/{process}/stat").read_text()
        process = int(status.rsplit(")", 1)[1].split()[1])
        yield process


def same_rows(one: pa.Table, two: pa.Table, tolerance: float = 2e-3) -> None:
    """Equal tables, scores up to the rounding of bfloat16 in other batches."""
    for name in one.column_names:
        if name not in ("probability", "scores"):
            assert one[name].equals(two[name]), name
    for ours, theirs in zip(one["scores"].to_pylist(), two["scores"].to_pylist(), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=tolerance)
