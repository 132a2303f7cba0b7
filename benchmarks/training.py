"""Training speed beside the usual ways: `python -m benchmarks.training [--images 5000]`.

Every contender trains on the same photos, as a whole process, one after the other. Its fastest epoch
counts, since the first one decodes, compiles and fills caches. "One core" limits the whole command,
including Ray, to one core. The command prints the ratios and writes `benchmarks/training.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.here import circumstances

HERE = Path(__file__).resolve().parent
PHOTOS = HERE.parents[1] / "shared" / "data" / "cats-and-dogs"
EPOCHS = 4


def extract(photos: Path, folder: Path, images: int) -> None:
    """As many photos of each archive as files, a folder for each class."""
    archives = sorted(photos.glob("*.tar"))
    for archive in archives:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isfile()]
            step = max(1, len(members) * len(archives) // images)
            for member in members[::step][: images // len(archives)]:
                tar.extract(member, folder, filter="data")


def peer(script: str, *arguments: str) -> dict[str, float]:
    """What a contender's script printed."""
    command = [sys.executable, str(HERE / "contenders" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def draw(folder: Path, images: int) -> None:
    """As many drawings as files, where there are no photos."""
    from catdog.demo import drawings

    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(images // 2):
            picture = drawings.draw_jpeg(label, number)
            (folder / label / f"{number:05d}.jpg").write_bytes(picture)


def ours(folder: Path, output: Path, cores: int, *flags: str) -> dict[str, float]:
    """Images/s of the fastest epoch, and the seconds an epoch that nothing was trained in."""
    command = [sys.executable, "-m", "catdog", "train", str(folder), "--output", str(output)]
    command += ["--epochs", str(EPOCHS), *flags]
    metrics = output / "metrics.csv"
    command = ["taskset", "--cpu-list", f"0-{cores - 1}", *command]
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


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """The ratios in which the goals are stated."""

    def rate(name: str) -> float:
        return found[name]["images_per_s"]

    two, alone = "article, 2 workers", "article, 1 worker on one core"
    grown = "article, 2 workers of 32 images each"
    return {
        "2 workers / the article's ImageDataGenerator + fit": rate(two) / rate("article"),
        "2 workers / cache() + fit, bfloat16": rate(two) / rate("cache() + fit, mixed_bfloat16"),
        "2 workers / 1 worker on one core": rate(two) / rate(alone),
        "2 workers / 1 worker on one core, a worker's batch the same": rate(grown) / rate(alone),
        "compact: 2 workers / 1 worker on one core": rate("compact, 2 workers")
        / rate("compact, 1 worker on one core"),
        "lost between epochs / epoch": found[two]["seconds_lost_between_epochs"]
        / found[two]["epoch_s"],
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--photos", type=Path, default=PHOTOS if PHOTOS.exists() else None)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="catdog-bench-") as name:
        scratch = Path(name)
        folder = scratch / "photos"
        if arguments.photos:
            extract(arguments.photos, folder, arguments.images)
        else:
            draw(folder, arguments.images)
        os.environ["PYTHONPATH"] = str(HERE.parent)
        article, compact = ("--architecture", "article"), ("--architecture", "compact")
        one, two = ("--workers", "1"), ("--workers", "2")
        runs = {
            "article, 1 worker on one core": (1, *article, *one),
            "article, 2 workers": (2, *article, *two),
            "article, 2 workers of 32 images each": (
                2,
                *article,
                *two,
                "--batch-size-per-worker",
                "32",
            ),
            "article, 1 worker with both cores": (2, *article, *one, "--cpus-per-worker", "2"),
            "compact, 1 worker on one core": (1, *compact, *one),
            "compact, 2 workers": (2, *compact, *two),
            "compact, 1 worker with both cores": (2, *compact, *one, "--cpus-per-worker", "2"),
        }
        found["article"] = peer("image_data_generator.py", str(folder), "2")
        for policy in ("float32", "mixed_bfloat16"):
            found[f"cache() + fit, {policy}"] = peer(
                "directory_cache.py", str(folder), str(EPOCHS), policy
            )
        for number, (title, (cores, *flags)) in enumerate(runs.items()):
            found[title] = ours(folder, scratch / str(number), cores, *flags)
            print(f"  {title:<34} {found[title]['images_per_s']:6.0f} images/s", file=sys.stderr)
    table = ratios(found)
    record = {**circumstances(), "images": arguments.images, "ratios": table, "contenders": found}
    (HERE / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print("| training | images/s |\n| --- | --- |")
    for title, figures in found.items():
        print(f"| {title} | {figures['images_per_s']:.0f} |")
    print("\n| ratio | |\n| --- | --- |")
    for title, value in table.items():
        print(f"| {title} | {value:.2f} |")


if __name__ == "__main__":
    main()
