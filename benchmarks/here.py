"""Where and when something was measured, for each file of figures; and the CPU time of a process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path


def circumstances() -> dict[str, str]:
    """Machine, date (UTC) and commit, for a file of figures."""
    git = shutil.which("git") or "git"
    done = subprocess.run(
        [git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    cpus = len(os.sched_getaffinity(0))
    return {
        "machine": f"{_cpu()} ({platform.machine()}), {cpus} CPUs, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": done.stdout.strip() or "unknown",
    }


def _cpu() -> str:
    """Its name, since ratios depend on it; without commas."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].replace(",", "").strip() if names else "CPU"


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
