"""A user's program against the public API. mypy reads it in strict mode; nobody runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import catdog

if TYPE_CHECKING:
    from pathlib import Path


class Printer(catdog.Observer):
    """Overrides what it wants to see."""

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        """One line."""
        print(f"{done} of {total}, {rejected} rejected, {images_per_s:.0f} images/s")


def jobs(photos: Path, output: Path) -> None:
    """Train, classify, measure, look."""
    run = catdog.train(photos, output=output / "run", epochs=3, observer=Printer())
    assert_type(run, catdog.TrainResult)
    config = catdog.ClassifyConfig(
        images=("more/", "s3://bucket/archive.zip"), output="results", model=run.model
    )
    summary = catdog.classify(config)
    assert_type(summary.errors, dict[str, int])
    evaluation = catdog.evaluate([photos], output / "evaluation", model=run.model, part="test")
    recalls = {label: numbers["recall"] for label, numbers in evaluation.classes.items()}
    absent = [label for label, recall in recalls.items() if recall is None]
    page: catdog.ReportSummary = catdog.report(evaluation.output)
    print(absent, page.output, summary.classified + summary.rejected == summary.planned)


def pictures(paths: list[Path]) -> dict[Path, str]:
    """The label of each picture that can be read."""
    try:
        model = catdog.load_model()
    except catdog.UserInputError as error:
        raise SystemExit(str(error)) from error
    limits = catdog.DecodeLimits(max_pixels=10_000_000)
    answers = model.predict(paths, decode_limits=limits)
    assert_type(answers, list[catdog.Prediction])
    return {path: each.label for path, each in zip(paths, answers, strict=True) if each.label}
