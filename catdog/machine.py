"""What this process may use of its machine: CPUs and memory, by affinity and by control groups.

In a container, `os.cpu_count()` counts the CPUs of the whole machine, and `/proc/meminfo` its memory.
Linux limits a process by affinity (`taskset`, `--cpuset-cpus`) and by control groups, in two versions.
The limits of all groups above the process's own apply, too.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def usable_cpus() -> int:
    """CPUs that this process may keep busy, at least one; a quota of 1.5 gives two."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    for folder in _groups("cpu"):
        quota, period = _cpu_quota(folder)
        if quota > 0 and period > 0:
            count = min(count, math.ceil(quota / period))
    return max(1, count)


def cpu_flags() -> frozenset[str]:
    """The CPU's features, as Linux names them; empty on other systems."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def has_gpu() -> bool:
    """Whether a GPU driver of NVIDIA or AMD is running."""
    return any(next(Path("/dev").glob(name), None) for name in ("nvidia[0-9]*", "kfd"))


def memory() -> int:
    """Bytes of memory of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit() -> int:
    """Bytes that all processes of this container may use together."""
    limit = memory()
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            allowed = _number(folder / name)
            if allowed > 0:
                limit = min(limit, allowed)
    return limit


def memory_kills() -> int:
    """How many processes the kernel has killed because their control group ran out of memory."""
    kills = 0
    for folder in _groups("memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in _text(folder / name).splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill" and count.isdigit():
                    kills = max(kills, int(count))
    return kills


def _cpu_quota(folder: Path) -> tuple[int, int]:
    """CPU time per period and the period, in microseconds; a CPU time of -1 is no limit."""
    words = _text(folder / "cpu.max").split()
    if len(words) == 2:  # version 2
        return (int(words[0]) if words[0].isdigit() else -1), int(words[1])
    return _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, from its own up to the topmost it can see."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root, mount in _mounts(controller if controllers else ""):
            # A container often sees its own group at the mount, under the path that it has outside.
            inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else "/"
            folder = mount / inside.strip("/")
            while folder != mount:
                yield folder
                folder = folder.parent
            yield mount


def _mounts(controller: str) -> Iterator[tuple[str, Path]]:
    """Root and place of each mount of a controller of version 1, or of version 2 where it is empty."""
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        kind, _, *options = after.split(" ")
        fields = before.split(" ")
        wanted = (
            kind == "cgroup" and controller in ",".join(options).split(",")
            if controller
            else kind == "cgroup2"
        )
        if wanted:
            yield fields[3], Path(fields[4])


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else -1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
