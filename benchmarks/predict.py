"""Measures `catdog predict` from a cold shell, and pictures in a program that keeps the model loaded.

    python -m benchmarks.predict photos/cat

prints, as JSON: `cold_s`, the median of whole commands, start of Python to exit; `import_s` and
`first_s`, the import of catdog and the first answer after it, in a fresh process; `images_per_s`
of `predict` on all pictures of the folder, and `engine_images_per_s` of the bare engine on their
pixels, which are decoded already. The last two are of the same process, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

_FIRST = """
import sys, time
started = time.perf_counter()
import catdog
imported = time.perf_counter()
answers = catdog.load_model().predict(sys.argv[1])
assert answers[0].error is None
print(imported - started, time.perf_counter() - imported)
"""


def run(*command: str) -> str:
    return subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True
    ).stdout


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(pictures: list[Path], rounds: int) -> dict[str, float]:
    """All figures; each is the median of so many rounds."""
    import catdog
    from catdog import machine
    from catdog.model import folders, inference

    first = str(pictures[0])
    cold = [timed(lambda: run("-m", "catdog", "predict", first)) for _ in range(rounds)]
    starts = [[float(each) for each in run("-c", _FIRST, first).split()] for _ in range(rounds)]
    model = catdog.load_model()
    shipped = folders.load(folders.SHIPPED)
    predictor = inference.load_predictor(shipped, threads=machine.usable_cpus())
    size = shipped.metadata.preprocessing
    pixels = np.zeros((len(pictures), size.height, size.width, 3), np.uint8)
    model.predict(pictures)
    predictor(pixels)
    whole, bare = [], []
    for _ in range(rounds):
        whole.append(timed(lambda: model.predict(pictures)))
        bare.append(timed(lambda: predictor(pixels)))
    return {
        "cold_s": statistics.median(cold),
        "import_s": statistics.median(each for each, _ in starts),
        "first_s": statistics.median(each for _, each in starts),
        "images_per_s": len(pictures) / statistics.median(whole),
        "engine_images_per_s": len(pictures) / statistics.median(bare),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(json.dumps(measure(sorted(asked.folder.glob("*.jpg")), asked.rounds), indent=1))
