"""The command that measures `catdog predict` runs, and what it says is of the right size."""

from __future__ import annotations

import pytest

from benchmarks import predict
from catdog.demo import archives


@pytest.mark.slow
@pytest.mark.long
def test_every_figure_is_measured(tmp_path):
    """Whole commands take longer than a first answer, whatever the machine."""
    archives.write_dataset(tmp_path, 4, seed=2)
    figures = predict.measure(sorted(tmp_path.rglob("*.jpg")), rounds=1)
    assert all(figure > 0 for figure in figures.values())
    assert figures.keys() == {
        "cold_s",
        "import_s",
        "first_s",
        "images_per_s",
        "engine_images_per_s",
    }
