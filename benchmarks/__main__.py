"""Runs the contenders in turn on the same photos and writes their ratios.

    python -m benchmarks [--images 8000] [--rounds 1] [--photos FOLDER]

In each round, every contender runs as a whole process, one after the other. Ratios are formed within a
round, so that a machine whose speed drifts favours nobody. The command writes `benchmarks/results.json`,
`docs/benchmark.png` and the estimates of `docs/scale.md`, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import bookkeeping, preparation
from benchmarks.here import circumstances
from catdog.model import folders

HERE = Path(__file__).parent
ROOT = HERE.parent
PHOTOS = ROOT.parent / "shared" / "data" / "originals"
SHIPPED = folders.WEIGHTS_FOLDER / folders.SHIPPED
DAFT_PYTHON = ROOT / ".venv-bench" / "bin" / "python"


def timed(command: list[str]) -> dict[str, float]:
    """Run a contender: what it printed as JSON, its wall time, the time to its first image."""
    started = time.time()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.time() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    first = told.pop("first_image_at", None)
    if first:
        told["first_image_s"] = first - started
    return told | {"seconds": seconds}


def run_round(
    photos: Path, model: Path, scratch: Path, workers: int
) -> dict[str, dict[str, float]]:
    """Every contender once."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    contenders = HERE / "contenders"
    size, shipped_size = ["150", "150"], ["160", "160"]

    def ours(name: str, *flags: str, used: str = str(model)) -> list[str]:
        output = ["--output", str(scratch / name), "--json", "--no-report"]
        command = [sys.executable, "-m", "catdog", "classify", str(photos), "--model", used]
        return [*command, *output, *flags]

    def bare(precision: str, used: Path = model) -> list[str]:
        script = str(contenders / "bare.py")
        return [sys.executable, script, str(photos), str(used), precision, str(workers)]

    def peer(python: str, script: str, *rest: str, used: Path = model) -> list[str]:
        output = str(scratch / f"{Path(script).stem}-{used.name}")
        return [python, str(contenders / script), str(photos), str(used), output, *rest]

    by_ray = ("--workers", str(workers))  # else so few images are classified without it
    commands = {
        "catdog": ours("catdog"),
        "catdog float32": ours("catdog-float32", "--precision", "float32"),
        "catdog, shipped model": ours("catdog-shipped", used="cats-and-dogs"),
        "catdog by Ray": ours("catdog-ray", *by_ray),
        "catdog by Ray, shipped model": ours("catdog-ray-shipped", *by_ray, used="cats-and-dogs"),
        "bare": bare("auto"),
        "bare float32": bare("f32"),
        "bare, shipped model": bare("auto", SHIPPED),
        "tf.data + predict": peer(sys.executable, "tf_data.py"),
        "tf.data, shipped model": peer(sys.executable, "tf_data.py", used=SHIPPED),
        "ray read_images": peer(sys.executable, "read_images.py", *size),
        "ray read_images, shipped model": peer(
            sys.executable, "read_images.py", *shipped_size, used=SHIPPED
        ),
    }
    if DAFT_PYTHON.exists():
        daft = str(DAFT_PYTHON)
        commands["daft"] = peer(daft, "daft_job.py", *size)
        commands["daft, shipped model"] = peer(daft, "daft_job.py", *shipped_size, used=SHIPPED)
    # Not counted: the libraries come from the disk the first time, which no contender should pay.
    timed([sys.executable, str(contenders / "start_up.py")])
    found = {}
    for name, command in commands.items():
        found[name] = timed(command)
        print(f"  {name:<20} {found[name]['seconds']:7.1f} s", file=sys.stderr)
    found["start-up"] = timed([sys.executable, str(contenders / "start_up.py")])
    found["resume of 99 %"] = resume(scratch / "catdog", ours("catdog"))
    return found


def resume(results: Path, command: list[str]) -> dict[str, float]:
    """The time of a run that has about one hundredth of the images left to do."""
    import pyarrow.parquet as pq

    parts = sorted(results.glob("part-*"))
    rows = {part: pq.read_metadata(part).num_rows for part in parts}
    wanted, lost = sum(rows.values()) // 100, 0
    for part in parts:
        if lost >= wanted:
            break
        lost += rows[part]
        part.unlink()
    (results / "_summary.json").unlink()
    return timed(command) | {"images_left": lost}


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """The ratios of one round, in which the goals are stated."""

    def rate(name: str) -> float:
        return found[name]["images_per_s"]

    def seconds(name: str) -> float:
        return found[name]["seconds"]

    start_up = found["start-up"]["ray_init_s"] + found["start-up"]["import_tensorflow_s"]
    table = {
        "steady: catdog / bare limit, shipped model": rate("catdog, shipped model")
        / rate("bare, shipped model"),
        "steady: catdog by Ray / bare limit, shipped model": rate("catdog by Ray, shipped model")
        / rate("bare, shipped model"),
        "steady: catdog / bare limit, same precision": rate("catdog") / rate("bare"),
        "steady: catdog / bare limit, float32": rate("catdog float32") / rate("bare float32"),
        "steady: catdog / tf.data float32": rate("catdog") / rate("tf.data + predict"),
        "first image: catdog by Ray / (ray.init + import tensorflow)": found["catdog by Ray"][
            "first_image_s"
        ]
        / start_up,
        "resume of 99 %: seconds / whole job": seconds("resume of 99 %") / seconds("catdog"),
        "whole: catdog / tf.data": seconds("catdog") / seconds("tf.data + predict"),
        "whole: catdog / ray read_images": seconds("catdog") / seconds("ray read_images"),
    }
    if "daft" in found:
        table["whole: catdog / daft"] = seconds("catdog") / seconds("daft")
    for peer in ("tf.data", "ray read_images", "daft"):
        if (name := f"{peer}, shipped model") in found:
            for way in ("catdog", "catdog by Ray"):
                table[f"whole, shipped model: {way} / {peer}"] = seconds(
                    f"{way}, shipped model"
                ) / seconds(name)
    return table


def plot(rounds: list[dict[str, dict[str, float]]], path: Path, images: int) -> None:
    """Whole-job time of each contender as bars."""
    from matplotlib.figure import Figure

    names = [name for name in rounds[0] if name not in ("start-up", "resume of 99 %")]
    names = [name for name in names if not name.startswith("bare")]
    medians = [statistics.median(found[name]["seconds"] for found in rounds) for name in names]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    colours = ["#2563eb" if name.startswith("catdog") else "#94a3b8" for name in names]
    bars = axes.barh(names[::-1], medians[::-1], color=colours[::-1])
    axes.bar_label(bars, fmt="%.0f s", padding=4)
    axes.set(xlabel=f"seconds for {images:,} photos, the whole process", title=None)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--photos", type=Path, default=PHOTOS if PHOTOS.exists() else None)
    arguments = parser.parse_args()
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="catdog-bench-") as name:
        scratch = Path(name)
        origin = preparation.prepare_photos(arguments.photos, scratch / "photos", arguments.images)
        preparation.prepare_model(scratch / "model")
        rounds = []
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            rounds.append(
                run_round(scratch / "photos", scratch / "model", scratch / "run", workers)
            )
    tables = [ratios(found) for found in rounds]
    median = {key: statistics.median(table[key] for table in tables) for key in tables[0]}
    for found in rounds:
        for told in found.values():
            told.pop("output", None)  # a temporary folder
    record = {
        "images": arguments.images,
        "photos": origin,
        "workers": workers,
        **circumstances(),
        "ratios": median,
        "ratios_by_round": tables,
        "rounds": rounds,
    }
    (HERE / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    plot(rounds, ROOT / "docs" / "benchmark.png", arguments.images)
    bookkeeping.write_tables()  # those of docs/scale.md that follow from these rates
    print("| ratio | median | rounds |\n| --- | --- | --- |")
    for key, value in median.items():
        each = ", ".join(f"{table[key]:.2f}" for table in tables)
        print(f"| {key} | {value:.2f} | {each} |")


if __name__ == "__main__":
    main()
