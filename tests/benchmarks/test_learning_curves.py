"""The learning curves of docs/models.md are what was measured, on photos that no draw holds."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from benchmarks import learning_curves


def test_the_table_is_what_was_measured():
    """That of `benchmarks/learning_curves.json`, and the picture is there."""
    text = learning_curves.DOCUMENT.read_text()
    found = json.loads(learning_curves.FOUND.read_text())
    assert learning_curves.with_table(text, found) == text
    assert learning_curves.table(found) in text
    assert learning_curves.PICTURE.is_file()


def test_a_draw_holds_no_photo_that_is_measured_on(tmp_path):
    """It is the same each time, another one for another number, with as many of each class."""
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for label in ("cat", "dog"):
            for number in range(200):
                tar.addfile(tarfile.TarInfo(f"{label}/{label}.{number}.jpg"), io.BytesIO())
    pools, unseen = learning_curves.extract(tmp_path, tmp_path / "files")
    assert 20 < len(unseen) < 60
    tables = []
    for name, number in (("one", 0), ("same", 0), ("other", 1)):
        learning_curves.draw(pools, 30, number, tmp_path / name)
        tables.append((tmp_path / name).read_text())
    assert tables[0] == tables[1] != tables[2]
    assert tables[0].count(",cat\n") + tables[0].count(",cat\r\n") == 30
    assert not any(path.as_uri() in tables[0] for path in unseen)


def test_an_interval_is_that_of_the_draws():
    """Three draws have Student's, which is wide; one has that of the photos, and says so."""
    runs = {
        learning_curves.key("compact", 10, number): {"accuracy": 0.6 + 0.01 * number}
        for number in range(3)
    }
    runs[learning_curves.key("article", 10, 0)] = {"accuracy": 0.5}
    found = {"unseen": 1000, "runs": runs}
    ((size, mean, low, high, draws),) = learning_curves.points(found, "compact")
    assert (size, draws) == (10, 3)
    assert mean == pytest.approx(0.61)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert "50.0 % (46.9 to 53.1, 1 draw)" in learning_curves.table(found)
    assert "not run" in learning_curves.table(found)
