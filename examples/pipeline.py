"""The model in a Ray Data pipeline of your own: read an archive, filter, classify, aggregate.

    python examples/pipeline.py

draws its own pictures, so it needs no data and no network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ray

import catdog
from catdog import demo


def large_enough(row: dict[str, Any]) -> bool:
    """A filter of your own, on what catdog read."""
    return row["error"] is None and len(row["bytes"]) > 2_000


def main(folder: str, pictures: int = 60) -> dict[str | None, int]:
    """Pictures by label, as the model that ships with the package says."""
    archives = demo.archives.write_archives(Path(folder), pictures, seed=1)
    dataset = (
        catdog.read_images([archives.tar, archives.zip])
        .filter(large_enough)
        .map_batches(catdog.Classifier, concurrency=1, batch_size=32)
    )
    counts = {row["label"]: row["count()"] for row in dataset.groupby("label").count().take_all()}
    for label, count in sorted(counts.items(), key=str):
        print(f"{count:4} {label or 'rejected'}")
    return counts


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
