"""Evaluation measures what classification does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from catdog import storage
from catdog.errors import UserInputError
from catdog.evaluation import EvaluateConfig, calibration_error, evaluate, wilson_interval


@pytest.fixture(scope="module")
def evaluated(tiny_run, drawings, tmp_path_factory):
    config = EvaluateConfig(
        images=(str(drawings),),
        model=tiny_run.output,
        output=str(tmp_path_factory.mktemp("evaluated") / "validation"),
        part="validation",
        workers=2,
        precision="float32",
    )
    return config, evaluate(config)


@pytest.mark.slow
def test_validation_part_gives_the_training_runs_accuracy(evaluated, tiny_run):
    """The images that chose the best epoch, classified in bulk, give that epoch's accuracy.

    It holds only if split, pixels, labels and weights are the same in both jobs.
    """
    _, result = evaluated
    assert result.images == tiny_run.images["validation"]
    assert result.accuracy == pytest.approx(tiny_run.best["val_accuracy"], abs=1.01 / result.images)


@pytest.mark.slow
def test_numbers_fit_together(evaluated):
    """Matrix, accuracy, mistakes and files tell the same story."""
    config, result = evaluated
    matrix = np.array(result.confusion)
    assert matrix.sum() == result.images
    assert matrix.trace() / result.images == pytest.approx(result.accuracy)
    assert len(result.mistakes) == result.images - matrix.trace()
    assert [m["probability"] for m in result.mistakes] == sorted(
        (m["probability"] for m in result.mistakes), reverse=True
    )
    folder = storage.to_uri(config.output)
    stored = json.loads(storage.read_bytes(storage.join(folder, "metrics.json"), 10**7))
    assert stored["accuracy"] == result.accuracy
    with Image.open(storage.local_path(storage.join(folder, "plots.png"))) as plots:
        assert plots.size > (800, 600)


@pytest.mark.slow
def test_unknown_label_is_named(tiny_run, drawings, tmp_path):
    """Images of a class that the model does not know are an error in the input."""
    (tmp_path / "horse").mkdir()
    picture = next((drawings / "cat").iterdir())
    (tmp_path / "horse" / "1.jpg").write_bytes(picture.read_bytes())
    config = EvaluateConfig(
        images=(str(tmp_path / "horse" / ".."),),
        model=tiny_run.output,
        output=str(tmp_path / "evaluated"),
    )
    with pytest.raises(UserInputError, match="'horse'"):
        evaluate(config)


def test_calibration_error_of_known_tables():
    """Nine of ten right at 0.9 is perfectly calibrated; all right at 0.5 is off by one half."""
    right = np.array([True] * 9 + [False])
    assert calibration_error(np.full(10, 0.9), right) == pytest.approx(0.0)
    assert calibration_error(np.full(4, 0.5), np.full(4, True)) == pytest.approx(0.5)


def test_wilson_interval_of_a_known_case():
    """81 of 263 (Newcombe 1998, table I): 0.2553 to 0.3662."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
