"""What a case may cost, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOWEST_S = 20.0
MOST_BYTES = 256 << 20
"""Resident memory beyond what the process had, the largest permitted image and all limits included."""
_STREAMS = 6  # files that readers keep open for the next call


class Watch:
    """Watches this process, from now on.

    Args:
        scratch: a folder; temporary files go to a new one below, which stays empty between cases.
    """

    def __init__(self, scratch: Path) -> None:
        self._place = scratch / "temporary"
        self._place.mkdir()
        self._before = tempfile.tempdir
        tempfile.tempdir = str(self._place)
        self._threads = threading.active_count()
        self._descriptors = _count("/proc/self/fd")
        self._children = _children()

    def close(self) -> None:
        """Let temporary files go where they went before."""
        tempfile.tempdir = self._before

    @contextlib.contextmanager
    def case(self) -> Iterator[None]:
        """Raises AssertionError where what is done inside costs too much or leaves something."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        memory, began_at = _memory("VmRSS"), time.monotonic()
        yield
        took, peak = time.monotonic() - began_at, _memory("VmHWM") - memory
        assert took < SLOWEST_S, f"it took {took:.1f} s"
        assert peak < MOST_BYTES, f"it took {peak / 2**20:.0f} MiB"
        assert threading.active_count() <= self._threads, "a thread is left"
        left = _count("/proc/self/fd") - self._descriptors
        assert left <= _STREAMS, f"{left} files are left open"
        # So many, not those: a decoding child that ended was replaced by another one.
        assert len(_children()) <= len(self._children), "a process is left"
        assert not any(self._place.iterdir()), "a temporary file is left"


def _count(folder: str) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(folder).iterdir())
    return 0


def _children() -> set[str]:
    found: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= set(path.read_text().split())
    return found


def _memory(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0
