"""Small jobs from cold shell to exit: in the command's own process, and by Ray.

    python -m benchmarks.small_jobs --photos PHOTOS.tar --output benchmarks/small_jobs.json

In turns, `catdog classify` runs on the first photos of an archive, with the shipped model and without a
report; so do `import ray` and `ray.init`, for which every job on Ray waits. The figures are seconds of
wall time, the median of the rounds. docs/decisions/020 draws the conclusions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.here import circumstances

IMAGES = (30, 300, 2000, 10_000)
_RAY = "import ray; ray.init(include_dashboard=False, logging_level='ERROR')"
_WITHOUT_LIMITS = (
    "import sys; from catdog.classification import in_process as here; from catdog.cli.commands import main; "
    "here.MAX_IMAGES = here.MAX_BYTES = 10**12; sys.exit(main())"
)


def measure(photos: Path, rounds: int, images: tuple[int, ...]) -> dict[str, Any]:
    """Seconds by number of images and executor."""
    cpus = str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "all")
        with tarfile.open(photos) as tar:
            tar.extractall(source, filter="data")
        files = sorted(path for path in source.rglob("*") if path.is_file())
        found: dict[str, Any] = {}
        for count in images:
            folder = Path(scratch, str(count))
            folder.mkdir()
            for path in files[:count]:
                (folder / path.name).hardlink_to(path)
            seen: dict[str, list[float]] = {"process": [], "ray": [], "import ray, ray.init": []}
            for number in range(rounds):
                for executor, seconds in seen.items():
                    output = f"{scratch}/{count}-{executor}-{number}"
                    command = ["classify", str(folder), "--output", output, "--no-report", "--json"]
                    if executor == "process":
                        seconds.append(_seconds("-c", _WITHOUT_LIMITS, *command))
                    elif executor == "ray":
                        seconds.append(_seconds("-m", "catdog", *command, "--workers", cpus))
                    else:
                        seconds.append(_seconds("-c", _RAY))
            found[str(count)] = {
                name: round(statistics.median(each), 2) for name, each in seen.items()
            }
            sys.stdout.write(f"{count} images: {json.dumps(found[str(count)])}\n")
            sys.stdout.flush()
    return found


def _seconds(*arguments: str) -> float:
    started = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(
        [sys.executable, *arguments], capture_output=True, env=environment, check=True, timeout=600
    )
    return time.monotonic() - started


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="*", default=list(IMAGES))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    figures = {
        **circumstances(),
        "rounds": given.rounds,
        "seconds": measure(given.photos, given.rounds, tuple(given.images)),
    }
    if given.output is not None:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
