"""A job over what strangers hand over, with sound pictures among it."""

from __future__ import annotations

import pytest

from benchmarks import hostile
from catdog.classification import ClassifyConfig, classify

pytestmark = pytest.mark.slow


def test_each_costs_its_own_row(ray_cluster, tiny_model, tmp_path):
    """A row for each image of each archive, the sound pictures classified."""
    sound = hostile.draw(tmp_path / "images", archives=15, pictures_=60, seed=3)
    images, output = (str(tmp_path / "images"),), str(tmp_path / "results")
    summary = classify(ClassifyConfig(images=images, output=output, model=tiny_model, workers=1))
    assert summary.planned == summary.classified + summary.rejected > 75
    assert hostile.missing(list(images), output, sound) == []


@pytest.mark.long
def test_hundreds_of_them():
    """As a command of its own, with the processes' memory watched."""
    assert hostile.run(archives=600, pictures_=1500, seed=0)["wrong"] == []
