"""Where and when something was measured: what stands beside each figure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time


def circumstances() -> dict[str, str]:
    """Machine, date (UTC) and commit, for a file of figures."""
    git = shutil.which("git") or "git"
    done = subprocess.run(
        [git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    cpus = len(os.sched_getaffinity(0))
    return {
        "machine": f"{platform.machine()}, {cpus} CPUs, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": done.stdout.strip() or "unknown",
    }
