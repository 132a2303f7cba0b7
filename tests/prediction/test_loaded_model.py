"""Scoring pictures in this process: any form of a picture has the answer that `classify` gives."""

from __future__ import annotations

import contextlib
import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import catdog
from catdog import inputs, prediction
from catdog.demo import archives
from catdog.errors import UserInputError
from catdog.model import folders, inference
from catdog.pixels import DecodeLimits, Decoder


@pytest.fixture(scope="module")
def model():
    return prediction.load()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    archives.write_dataset(folder, 12, seed=3)
    return sorted(folder.rglob("*.jpg"))


def scored_as_in_classify(model, paths):
    """The scores by the parts that a classifying actor is made of."""
    entries = pa.Table.from_batches(
        inputs.list_images([str(path) for path in paths], inputs.SourceLimits())
    )
    predict = inference.load_predictor(folders.load(folders.SHIPPED))
    preprocessing = model.metadata.preprocessing
    with contextlib.closing(
        Decoder(preprocessing, DecodeLimits(), inputs.SourceLimits(), 16)
    ) as decoder:
        return np.concatenate([predict(batch.pixels) for batch in decoder.decode(entries)])


def test_answers_are_those_of_classify(model, photos):
    """Paths give the scores that a classifying actor gives, to the bit."""
    expected = scored_as_in_classify(model, photos)
    answers = model.predict(photos)
    assert [each.scores for each in answers] == [tuple(row.tolist()) for row in expected]
    assert [each.label for each in answers] == [model.labels[k] for k in expected.argmax(axis=1)]


def test_every_form_of_a_picture_has_one_answer(model, photos, tmp_path):
    """A path, a URI, bytes, an opened file and an archive's member are the same picture."""
    path = photos[0]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "cat/1.jpg")
    member = f"zip://cat/1.jpg::{(tmp_path / 'a.zip').as_uri()}"
    data = path.read_bytes()
    forms = [path, str(path), path.as_uri(), data, bytearray(data), member]
    with Image.open(path) as opened, Image.open(io.BytesIO(data)) as in_memory:
        answers = model.predict([*forms, opened, in_memory])
    assert len(set(answers)) == 1
    assert answers[0].error is None


def test_pixels_in_memory(model, photos):
    """An array and a PIL image of the same pixels agree, whatever their mode."""
    with Image.open(photos[0]) as opened:
        rgb = opened.convert("RGB")
    answers = model.predict([rgb, np.asarray(rgb)])
    assert answers[0] == answers[1]
    grey = rgb.convert("L")
    answers = model.predict([grey, np.asarray(grey), grey.convert("RGB")])
    assert len(set(answers)) == 1
    for mode in ("CMYK", "P", "RGBA", "YCbCr", "1", "I;16", "F"):
        (answer,) = model.predict(Image.new(mode, (40, 30)))
        assert answer.error is None, mode


def test_batches_of_any_size(model, photos):
    """Each picture has its own answer, in order, with broken ones among many."""
    wanted = [photos[0], b"", photos[1], b"no picture", "absent.jpg"] * 9
    answers = model.predict(wanted)
    assert [each.error for each in answers] == [None, "empty", None, "not-an-image", "missing"] * 9
    alone = [model.predict(each)[0] for each in wanted[:3]]
    assert answers[:3] == alone
    assert model.predict([]) == []
    assert model.predict(np.zeros((3, 20, 20, 3), np.uint8))[2].error is None


@pytest.mark.parametrize(
    "thing", [7, [None], np.zeros((4, 4), float), np.zeros((4, 4, 2), np.uint8), [{}]]
)
def test_what_is_no_picture_is_refused(model, thing):
    """A wrong type is a mistake of the program that calls, and is named."""
    with pytest.raises(UserInputError, match=r"is not a picture; give"):
        model.predict(thing)


def test_a_model_travels(model, photos):
    """One that has scored already can be sent to another process, and answers the same there."""
    answers = model.predict(photos[:2])
    assert pickle.loads(pickle.dumps(model)).predict(photos[:2]) == answers


def test_limits_hold(model, photos):
    """Pixels and bytes beyond the limits are rejected."""
    (few,) = model.predict(photos[0], decode_limits=DecodeLimits(max_pixels=10))
    (small,) = model.predict(
        photos[0].read_bytes(), source_limits=catdog.SourceLimits(max_bytes=100)
    )
    assert (few.error, small.error) == ("too-large", "too-large")


def test_neither_ray_nor_tensorflow_is_loaded(photos):
    """A notebook that scores one picture waits for neither."""
    code = (
        "import sys, catdog\n"
        f"print(catdog.load_model().predict({str(photos[0])!r})[0].label)\n"
        "assert not {'ray', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() in ("cat", "dog")


@pytest.mark.parametrize("name", folders.SHIPPED_MODELS)
def test_models_that_ship(name, photos):
    """They are found by name, are 10 MB at most, and have an answer for each picture."""
    files = [path for path in (folders.WEIGHTS_FOLDER / name).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    answers = prediction.load(name).predict(photos)
    assert {answer.label for answer in answers} <= {"cat", "dog"}
    assert sum(answer.label in str(path) for answer, path in zip(answers, photos, strict=True)) > 6
    assert all(answer.error is None and len(answer.scores) == 2 for answer in answers)
