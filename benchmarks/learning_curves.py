"""Measures accuracy by the number of training photos: `python -m benchmarks.learning_curves PHOTOS`.

It trains every network with `catdog train` on draws of 10 to 1,000 photos per class, a fifth of them for
validation, and measures it on photos outside of all draws. PHOTOS contains archives with a folder per
class, such as those of docs/model-card.md. Each finished run is recorded in
`benchmarks/learning_curves.json`, and the same command does the runs that are left. At the end, or with
`--draw-only`, it draws docs/learning-curves.png and writes the table of docs/models.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import statistics
import sys
import tarfile
import tempfile
from pathlib import Path

import catdog
from catdog.evaluation import wilson_interval
from catdog.inputs import splits
from catdog.runtime import ray_quirks

HERE = Path(__file__).resolve().parent
FOUND = HERE / "learning_curves.json"
PICTURE = HERE.parent / "docs" / "learning-curves.png"
DOCUMENT = HERE.parent / "docs" / "models.md"
NETWORKS = ("EfficientNetLite0", "compact", "article")
SIZES = (10, 30, 100, 300, 1000)
DRAWS = 3
_VALIDATION = 0.2
_PASSES_IMAGES = 60_000  # that a network from random weights sees in all of its epochs
_MOST_EPOCHS = 100
_T_95 = {2: 12.706, 3: 4.303}  # Student's t for 95 % of so many draws


def epochs(network: str, size: int) -> int | None:
    """How long a run is; None for the recipe's own length."""
    if network == "EfficientNetLite0":
        return None
    return min(_MOST_EPOCHS, _PASSES_IMAGES // (2 * size))


def extract(archives: Path, folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """The photos as files: those that draws are from, by class, and those to measure on."""
    pools: dict[str, list[Path]] = {}
    unseen = []
    for archive in sorted(archives.glob("*.tar")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            names = [member.name for member in tar if member.isfile()]
        for name in names:
            if splits.part_of(name, validation=0.1, test=0.1) == "test":
                unseen.append(folder / name)
            else:
                pools.setdefault(Path(name).parent.name, []).append(folder / name)
    return {label: sorted(paths) for label, paths in pools.items()}, sorted(unseen)


def draw(pools: dict[str, list[Path]], size: int, number: int, table: Path) -> None:
    """A table with this many photos per class, the same for every network."""
    chosen = random.Random(1000 * size + number)
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("uri", "label"))
        for label, paths in sorted(pools.items()):
            rows.writerows((path.as_uri(), label) for path in chosen.sample(paths, size))


def accuracy(run: str, unseen: list[Path]) -> float:
    """Share of the photos that the run's model is right on."""
    answers = catdog.load_model(run).predict(unseen)
    right = [answer.label == path.parent.name for answer, path in zip(answers, unseen, strict=True)]
    return statistics.fmean(right)


def key(network: str, size: int, number: int) -> str:
    """The name of a run in the file."""
    return f"{network}/{size}/{number}"


def measure(archives: Path, networks: list[str], sizes: list[int], draws: int) -> None:
    """Run what the file does not have yet."""
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {"runs": {}}
    with tempfile.TemporaryDirectory(prefix="catdog-curves-") as name, ray_quirks.connect(None):
        scratch = Path(name)
        pools, unseen = extract(archives, scratch / "photos")
        found["unseen"] = len(unseen)
        for network in networks:
            for size in sizes:
                for number in range(draws):
                    if key(network, size, number) in found["runs"]:
                        continue
                    table = scratch / f"{size}-{number}.csv"
                    draw(pools, size, number, table)
                    result = catdog.train(
                        table,
                        scratch / key(network, size, number).replace("/", "-"),
                        architecture=network,
                        epochs=epochs(network, size),
                        validation=_VALIDATION,
                        seed=number,
                        workers=1,
                        cpus_per_worker=2,
                    )
                    right = accuracy(result.output, unseen)
                    found["runs"][key(network, size, number)] = {
                        "accuracy": right,
                        "epochs": len(result.history),
                        "seconds": round(result.seconds, 1),
                    }
                    FOUND.write_text(json.dumps(found, indent=2) + "\n")
                    sys.stderr.write(f"{key(network, size, number)}: {right:.1%}\n")


def points(found: dict, network: str) -> list[tuple[int, float, float, float, int]]:
    """Photos of each class, mean accuracy, its interval, draws.

    The interval is Student's over the draws; of a single draw it is that of the photos measured on.
    """
    made = []
    for size in SIZES:
        runs = found["runs"]
        values = [
            runs[key(network, size, number)]["accuracy"]
            for number in range(DRAWS)
            if key(network, size, number) in runs
        ]
        if not values:
            continue
        mean = statistics.fmean(values)
        if len(values) > 1:
            half = _T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
            low, high = max(0.0, mean - half), min(1.0, mean + half)
        else:
            low, high = wilson_interval(round(mean * found["unseen"]), found["unseen"])
        made.append((size, mean, low, high, len(values)))
    return made


def table(found: dict) -> str:
    """A Markdown table of what was measured."""
    rows = ["| photos of each class | " + " | ".join(f"`{name}`" for name in NETWORKS) + " |"]
    rows.append("| --- |" + " --- |" * len(NETWORKS))
    by_network = {name: {p[0]: p[1:] for p in points(found, name)} for name in NETWORKS}
    for size in SIZES:
        cells = []
        for name in NETWORKS:
            if size not in by_network[name]:
                cells.append("not run")
                continue
            mean, low, high, draws = by_network[name][size]
            said = "" if draws == DRAWS else f", {draws} draw{'s' if draws > 1 else ''}"
            cells.append(f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f}{said})")
        rows.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def with_table(text: str, found: dict) -> str:
    """The document with its table as measured."""
    marks = r"(<!-- learning curves: `python -m benchmarks\.learning_curves` writes them -->\n).*?(<!-- end -->)"
    return re.sub(marks, lambda mark: mark[1] + table(found) + mark[2], text, flags=re.DOTALL)


def show(found: dict) -> None:
    """Draw the picture and write the table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for shift, network in zip((0.97, 1.0, 1.03), NETWORKS, strict=True):
        at = points(found, network)
        if not at:
            continue
        sizes = [shift * size for size, *_ in at]
        means = [100 * mean for _, mean, *_ in at]
        below = [100 * (mean - low) for _, mean, low, *_ in at]
        above = [100 * (high - mean) for _, mean, _, high, _ in at]
        axes.errorbar(sizes, means, [below, above], marker="o", capsize=3, label=network)
    axes.set(
        xscale="log",
        xlabel="photos of each class, a fifth of them for validation",
        ylabel=f"right of {found['unseen']:,} other photos, %",
        ylim=(40, 100),
    )
    axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PICTURE, dpi=110)
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), found))


def main() -> None:
    """Measure what is left, draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_curves", description=__doc__
    )
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--draw-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.draw_only:
        if arguments.photos is None:
            parser.error("PHOTOS: name the folder of the archives")
        measure(arguments.photos, arguments.networks, arguments.sizes, arguments.draws)
    show(json.loads(FOUND.read_text()))


if __name__ == "__main__":
    main()
