"""The model and the inputs in somebody's own Ray Data pipeline."""

from __future__ import annotations

import io
import zipfile
from collections import Counter

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


@pytest.mark.parametrize(
    "batch",
    [
        pa.table({"scan": pa.array([None, b"", None], pa.binary())}),
        {"scan": np.array([None, b"", None], object)},
        {"scan": np.array([np.nan, b"", np.nan], object)},
    ],
)
def test_nulls_among_bytes(batch):
    """They are missing, in a column of any name, however a format of batches has them."""
    answers = catdog.Classifier(column="scan")(batch)
    assert answers["error"].to_pylist() == ["missing", "empty", "missing"]
    assert answers["label"].null_count == answers["scores"].null_count == 3
    nothing = catdog.Classifier()({"bytes": np.array([np.nan, np.nan])})  # of a block with no other
    assert nothing["error"].to_pylist() == ["missing", "missing"]


def test_what_no_uri_is_costs_its_row(tmp_path, monkeypatch):
    """So do relative paths to nothing; one that leads to a picture is scored from where we are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(encoded(1))
    uris = {
        "a.jpg": None,
        "b/a.jpg": "missing",
        "": "unreadable",
        "foo://x/a.jpg": "unsupported",
        "s3://": "unsupported",
        "s3://user:secret@bucket/a.jpg": "unsupported",
        "a\0.jpg": "unsupported",
        "zip://a.jpg::no.zip": "missing",
        "no::a.jpg": "unsupported",
        "http://127.0.0.1/a.jpg": "forbidden",
    }
    answers = catdog.Classifier()(pa.table({"uri": [*uris]}))
    assert dict(zip(uris, answers["error"].to_pylist(), strict=True)) == uris
    told = catdog.load_model().predict([*uris])
    assert "secret" not in str(told)


@pytest.mark.parametrize(
    "batch", [pa.table({"bytes": pa.array([], pa.binary())}), {}, pa.table({})]
)
def test_a_block_without_rows(batch):
    """It has the columns of the others, in their types, so that blocks fit together."""
    answers = catdog.Classifier()(batch)
    others = catdog.Classifier()(pa.table({"bytes": [encoded(1)]}))
    assert len(answers) == 0
    for name in ("label", "probability", "scores", "error"):
        assert answers.schema.field(name) == others.schema.field(name)


def test_a_column_that_is_not_there_is_named():
    """The columns that are there are named, too."""
    with pytest.raises(UserInputError, match=r"no column bytes or uri; there are: \['picture'\]"):
        catdog.Classifier()(pa.table({"picture": [b""]}))
    with pytest.raises(UserInputError, match=r"no column scan; there are: \['bytes'\]"):
        catdog.Classifier(column="scan")(pa.table({"bytes": [b""]}))


def test_a_pipeline_of_ones_own(ray_cluster, tmp_path):
    """An archive is read, a filter of the user's stands between, and each answer is `predict`'s."""
    import ray.data

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
    odd = [pa.table({"uri": pa.array(uris, pa.string())}) for uris in (["no/such.jpg", None], [])]
    all_of_them = uris.union(ray.data.from_arrow(odd))
    again = all_of_them.map_batches(catdog.Classifier, concurrency=1, batch_size=4).take_all()
    assert {row["label"] for row in again if row["error"] is None} <= {"cat", "dog"}
    errors = Counter(row["error"] for row in again)
    assert errors == {None: 6, "missing": 2, "not-an-image": 1}
