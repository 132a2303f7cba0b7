"""Training speed beside the usual ways: `python -m benchmarks.training PHOTOS`.

Every contender trains on the same photos, whole processes one after the other, and its fastest
epoch counts: the first one decodes, compiles and fills caches. Writes benchmarks/training.json.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
EPOCHS = 4


def extract(photos: Path, folder: Path, images: int) -> None:
    """The first photos of the archives as files, a folder for each class."""
    count = 0
    for archive in sorted(photos.glob("*.tar")):
        with tarfile.open(archive) as tar:
            for member in tar:
                if count == images:
                    return
                if member.isfile():
                    tar.extract(member, folder, filter="data")
                    count += 1


def peer(script: str, *arguments: str) -> dict[str, float]:
    """What a contender's script printed."""
    command = [sys.executable, str(HERE / "contenders" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(folder: Path, output: Path, *flags: str) -> dict[str, float]:
    """Images/s of the fastest epoch, and the seconds an epoch that nothing was trained in."""
    command = [sys.executable, "-m", "catdog", "train", str(folder), "--output", str(output)]
    command += ["--epochs", str(EPOCHS), *flags]
    metrics = output / "metrics.csv"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen: dict[int, float] = {}
    rows: list[dict[str, str]] = []
    while process.poll() is None:
        if metrics.exists():
            with metrics.open(newline="") as file:
                rows = list(csv.DictReader(file))
            seen.setdefault(len(rows), time.time())
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{process.stderr.read().decode()[-3000:]}")
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    between = seen[EPOCHS] - seen[2]
    working = sum(float(row["seconds"]) for row in rows[2:])
    return {
        "images_per_s": max(float(row["images_per_s"]) for row in rows),
        "seconds_lost_between_epochs": (between - working) / (EPOCHS - 2),
        "epoch_s": working / (EPOCHS - 2),
    }


def main(photos: str, images: str = "5000") -> None:
    """Run, print, write."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="catdog-bench-") as name:
        scratch = Path(name)
        folder = scratch / "photos"
        extract(Path(photos), folder, int(images))
        os.environ["PYTHONPATH"] = str(HERE.parent)
        seed = ("--architecture", "seed")
        runs = {
            "seed, 1 worker of 1 core": (*seed, "--workers", "1"),
            "seed, 2 workers of 1 core": (*seed, "--workers", "2"),
            "seed, 1 worker of 2 cores": (*seed, "--workers", "1", "--cpus-per-worker", "2"),
            "seed, 2 workers, batches of 128": (*seed, "--workers", "2", "--batch-size", "128"),
            "compact, 1 worker of 1 core": ("--workers", "1"),
            "compact, 2 workers of 1 core": ("--workers", "2"),
            "compact, 1 worker of 2 cores": ("--workers", "1", "--cpus-per-worker", "2"),
        }
        found["ImageDataGenerator + fit"] = peer("image_data_generator.py", str(folder), "2")
        for policy in ("float32", "mixed_bfloat16"):
            found[f"image_dataset_from_directory().cache() + fit, {policy}"] = peer(
                "directory_cache.py", str(folder), str(EPOCHS), policy
            )
        for number, (title, flags) in enumerate(runs.items()):
            found[title] = ours(folder, scratch / str(number), *flags)
            print(title, found[title], file=sys.stderr)
    (HERE / "training.json").write_text(json.dumps({"images": int(images), **found}, indent=2))
    for title, figures in found.items():
        print(f"| {title} | {figures['images_per_s']:.0f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
