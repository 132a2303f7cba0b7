"""Measures `catdog predict` from a cold shell, and pictures in a program that keeps the model loaded.

    python -m benchmarks.predict photos/cat

Keras runs the same model beside it: `keras.utils.load_img`, then `model.predict` in batches of 32.
Writes benchmarks/predict.json: `cold_s` of a whole command, start of Python to exit; `import_s` and
`first_s`, the imports and the first answer after them, in a fresh process; `images_per_s` of all
pictures of the folder, from files to scores, in a process that has answered before; and
`engine_images_per_s` of the engine alone on decoded pixels: OpenVINO, or Keras' `model.predict`.
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

from benchmarks.here import circumstances

CONTENDERS = Path(__file__).parent / "contenders"
OUTPUT = Path(__file__).with_suffix(".json")


def run(*command: str) -> str:
    return subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True
    ).stdout


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """All figures of both, in turns; each is the median of so many rounds."""
    from catdog.model import folders  # not above: `measure_here` measures what imports take

    first = str(min(folder.glob("*.jpg")))
    keras = [str(CONTENDERS / "keras_predict.py"), str(folders.WEIGHTS_FOLDER / folders.SHIPPED)]
    warm = {"catdog": ["-m", "benchmarks.predict", "--warm"], "Keras": keras}
    cold = {"catdog": ["-m", "catdog", "predict", first], "Keras": [*keras, first]}
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in warm}
    for _ in range(rounds):
        for name, found in seen.items():
            seconds = timed(lambda command=cold[name]: run(*command))
            found.append(json.loads(run(*warm[name], str(folder)).splitlines()[-1]))
            found[-1]["cold_s"] = seconds
    return {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in seen.items()
    }


def measure_here(folder: Path) -> dict[str, float]:
    """The figures of catdog in this process, which must be fresh."""
    started = time.perf_counter()
    import catdog

    imported = time.perf_counter()
    pictures = sorted(folder.glob("*.jpg"))
    model = catdog.load_model()
    assert model.predict(pictures[0])[0].error is None
    answered = time.perf_counter()
    from catdog import machine
    from catdog.model import folders, inference

    shipped = folders.load(folders.SHIPPED)
    predictor = inference.load_predictor(shipped, threads=machine.usable_cpus())
    size = shipped.metadata.preprocessing
    pixels = np.zeros((len(pictures), size.height, size.width, 3), np.uint8)
    model.predict(pictures)
    predictor(pixels)
    whole, bare = timed(lambda: model.predict(pictures)), timed(lambda: predictor(pixels))
    return {
        "import_s": imported - started,
        "first_s": answered - imported,
        "images_per_s": len(pictures) / whole,
        "engine_images_per_s": len(pictures) / bare,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.warm:
        print(json.dumps(measure_here(asked.folder)))
    else:
        told = {**circumstances(), "rounds": asked.rounds, **measure(asked.folder, asked.rounds)}
        OUTPUT.write_text(json.dumps(told, indent=2) + "\n")
        print(OUTPUT.read_text())
