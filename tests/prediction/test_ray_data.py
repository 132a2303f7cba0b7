"""The model and the inputs in somebody's own Ray Data pipeline."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pyarrow as pa
import pytest

import catdog
from catdog.demo import drawings
from catdog.errors import UserInputError

pytestmark = pytest.mark.slow


def encoded(seed):
    """A drawn cat as a JPEG."""
    buffer = io.BytesIO()
    drawings.draw("cat", seed).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_batch_in_any_format():
    """Tables and dictionaries of arrays are answered alike; earlier errors stay."""
    classifier = catdog.Classifier()
    pictures = [encoded(1), b"", None]
    errors = [None, None, "forbidden"]
    answers = classifier(pa.table({"bytes": pictures, "error": errors}))
    assert answers["error"].to_pylist() == [None, "empty", "forbidden"]
    assert answers["label"].null_count == 2
    assert answers["probability"][0].as_py() == pytest.approx(max(answers["scores"][0].as_py()))
    arrays = {"bytes": np.array(pictures, object), "error": np.array(errors, object)}
    assert classifier(arrays).equals(answers)


def test_a_column_that_is_not_there_is_named():
    """The columns that are there are named, too."""
    with pytest.raises(UserInputError, match=r"no column bytes or uri; there are: \['picture'\]"):
        catdog.Classifier()(pa.table({"picture": [b""]}))
    with pytest.raises(UserInputError, match=r"no column scan; there are: \['bytes'\]"):
        catdog.Classifier(column="scan")(pa.table({"bytes": [b""]}))


def test_a_pipeline_of_ones_own(ray_cluster, tmp_path):
    """An archive is read, a filter of the user's stands between, and each answer is `predict`'s."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for seed in range(6):
            archive.writestr(f"cat/{seed}.jpg", encoded(seed))
        archive.writestr("dog/broken.jpg", b"no picture")
    dataset = catdog.read_images(tmp_path / "a.zip")
    kept = dataset.filter(lambda row: not row["name"].endswith("/3.jpg"))
    scored = kept.map_batches(catdog.Classifier, concurrency=1, batch_size=4)
    rows = {row["name"]: row for row in scored.take_all()}
    assert sorted(rows) == [*(f"cat/{seed}.jpg" for seed in (0, 1, 2, 4, 5)), "dog/broken.jpg"]
    assert rows["dog/broken.jpg"]["error"] == "not-an-image"
    expected = catdog.load_model().predict([encoded(seed) for seed in (0, 1, 2, 4, 5)])
    for seed, answer in zip((0, 1, 2, 4, 5), expected, strict=True):
        row = rows[f"cat/{seed}.jpg"]
        assert row["label"] == answer.label
        np.testing.assert_allclose(row["scores"], answer.scores, atol=2e-3)
    uris = catdog.read_images([tmp_path / "a.zip"]).select_columns(["uri"])
    again = uris.map_batches(catdog.Classifier, concurrency=1, batch_size=4).take_all()
    assert {row["label"] for row in again if row["error"] is None} <= {"cat", "dog"}
    assert len(again) == 7
