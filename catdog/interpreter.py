"""A new interpreter that runs a module of this package, not a fork: this process has threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def start(
    module: str, descriptors: Sequence[int], *, errors: int | None = None, **variables: str
) -> subprocess.Popen[bytes]:
    """Start it, with what this process can import.

    Args:
        module: its full name.
        descriptors: open files that it inherits; their numbers are its arguments.
        errors: as the `stderr` of `subprocess.Popen`.
        variables: of its environment, besides this process's.
    """
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )
