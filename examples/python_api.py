"""Trains, classifies, evaluates and reports, with the Python API instead of the command line.

    python examples/python_api.py

draws its own pictures, so it needs no data and no network. Everything goes into the folder `--output`. Keywords have the names and defaults of the command line's flags.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import catdog
from catdog import demo
from catdog.runtime import ray_quirks


class Printer(catdog.Observer):
    """What a program is told while a job runs; override the methods that you need."""

    def phase(self, text: str) -> None:
        """A new phase begins."""
        print(f"... {text}")

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """An epoch ended."""
        mark = ", the best so far" if best else ""
        print(f"epoch {row['epoch']:.0f}: validation accuracy {row['val_accuracy']:.1%}{mark}")


def main(arguments: list[str] | None = None) -> None:
    """Train on drawn cats and dogs, classify others, measure, and write a page to look at."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("python-api"))
    parser.add_argument("--drawings", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args(arguments)
    folder: Path = options.output

    demo.archives.write_dataset(folder / "drawings", options.drawings, seed=0)
    unseen = demo.archives.write_archives(folder / "unseen", max(20, options.drawings // 5), seed=1)
    printer = Printer()

    # Each job starts a cluster of its own and ends it, or finds this one.
    with ray_quirks.connect(None, minimum_cpus=2):
        run = catdog.train(
            folder / "drawings",
            output=folder / "run",
            architecture="article",
            workers=2,
            epochs=options.epochs,
            learning_rate=5e-4,
            height=64,
            width=64,
            validation=0.15,
            test=0.15,  # never seen in training, for `evaluate`
            observer=printer,
        )
        print(f"best: {run.best['val_accuracy']:.1%} in epoch {run.best['epoch']:.0f}")

        summary = catdog.classify(
            [unseen.tar, unseen.zip],
            output=folder / "results",
            model=run.model,
            observer=printer,
        )
        print(f"classified {summary.classified}, rejected {summary.rejected}: {summary.errors}")

        evaluation = catdog.evaluate(
            folder / "drawings",
            output=folder / "evaluation",
            model=run.model,
            part="test",
            observer=printer,
        )
        print(
            f"accuracy {evaluation.accuracy:.1%} on {evaluation.images} test pictures "
            f"(95 % interval {evaluation.accuracy_low:.1%} to {evaluation.accuracy_high:.1%})"
        )

    # The results are Parquet files; nothing of catdog is needed to read them.
    table = pq.read_table(folder / "results")
    labels = json.loads(table.schema.metadata[b"labels"])
    print(f"{table.num_rows} rows; scores are of {', '.join(labels)}")
    for row in table.filter(pc.field("error").is_valid()).to_pylist():
        print(f"  {row['uri'].split('::')[0]}: {row['error']}: {row['error_detail']}")

    for results in (summary.output, evaluation.output):
        page = catdog.report(results)
        print(f"look at {page.output}")


if __name__ == "__main__":
    main()
