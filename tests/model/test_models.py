"""The model folder: whole, verified, and the same scores wherever it is loaded."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import zipfile

import numpy as np
import pytest

from catdog.errors import CatdogError, UserInputError
from catdog.model import folders, inference
from catdog.runtime import tensorflow_quirks

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of the tiny model's folder."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    return copy


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (9, 64, 72, 3), np.uint8)


def test_scores_survive_save_and_load(folder, pixels, tmp_path):
    """A model saved again from what was loaded gives identical scores."""
    model = folders.load(str(folder))
    folders.save(
        (tmp_path / "copy").as_uri(),
        model.files,
        labels=model.metadata.labels,
        preprocessing=model.metadata.preprocessing,
        architecture=model.metadata.architecture,
        training=model.metadata.training,
    )
    copy = folders.load(str(tmp_path / "copy"))
    assert copy.metadata.fingerprint == model.metadata.fingerprint
    for engine in ("openvino", "tensorflow"):
        one, two = (
            inference.load_predictor(each, engine=engine, precision="float32")(pixels)
            for each in (model, copy)
        )
        assert np.array_equal(one, two)


def test_engines_agree(folder, pixels):
    """OpenVINO gives TensorFlow's scores: to rounding in float32, to 1e-2 in bfloat16."""
    model = folders.load(str(folder))

    def scores(engine, precision):
        return inference.load_predictor(model, engine=engine, precision=precision)(pixels)

    expected = scores("tensorflow", "float32")
    assert expected.shape == (9, 2)
    assert expected.sum(axis=1) == pytest.approx(np.ones(9))
    assert np.ptp(expected[:, 0]) > 0
    np.testing.assert_allclose(scores("openvino", "float32"), expected, atol=1e-5)
    for engine in ("openvino", "tensorflow"):
        np.testing.assert_allclose(scores(engine, "bfloat16"), expected, atol=1e-2)


def test_embeddings_are_what_the_head_is_given(folder, pixels):
    """Of length 1, the same from both engines; the head's weights make the scores' order of them."""
    model = folders.load(str(folder))
    found = {}
    for engine in ("openvino", "tensorflow"):
        asked = {"engine": engine, "precision": "float32"}
        predict = inference.load_predictor(model, embeddings=True, **asked)
        scores, found[engine] = predict.with_embeddings(pixels)
        assert found[engine].shape == (9, predict.embedding_size)
        plain = inference.load_predictor(model, **asked)
        np.testing.assert_allclose(scores, plain(pixels), atol=1e-6)
        assert plain.with_embeddings(pixels)[1].shape == (9, 0)
    np.testing.assert_allclose(found["openvino"], found["tensorflow"], atol=1e-3)
    lengths = np.linalg.norm(found["openvino"].astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    tensorflow_quirks.import_keras(1)
    network = model.keras_model()
    import keras

    given = keras.Model(network.inputs[0], network.layers[-1].input)(pixels).numpy()
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    np.testing.assert_allclose(found["tensorflow"], given, atol=1e-3)


def test_batch_size_does_not_change_scores(folder, pixels):
    """An image's scores do not depend on its neighbours in the batch."""
    predict = inference.load_predictor(folders.load(str(folder)), precision="float32")
    alone = np.concatenate([predict(pixels[i : i + 1]) for i in range(len(pixels))])
    np.testing.assert_allclose(alone, predict(pixels), atol=1e-6)


def test_same_network_has_same_files(folder, tmp_path, monkeypatch):
    """Files, and so the fingerprint, follow from the network and not from when it was saved.

    Nothing stays among the temporary files, nor the code that TensorFlow generates meanwhile.
    """
    tensorflow_quirks.import_keras(1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    first = folders.export(folders.load(str(folder)).keras_model())
    time.sleep(2.1)  # the times in a zip file go in steps of two seconds
    second = folders.export(folders.load(str(folder)).keras_model())
    assert {name for name in first if first[name] != second[name]} == set()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_files_do_not_tell_where_objects_lay(tmp_path):
    """Keras names an object that layers share by its address, another one in each process."""

    def saved(*addresses):
        policies = [{"shared_object_id": address} for address in addresses]
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
            file.writestr("config.json", json.dumps(policies))
        return folders._reproducible(tmp_path / "model.keras")

    assert saved(140189583012304, 7, 140189583012304) == saved(139647172986192, 8, 139647172986192)
    assert saved(1, 2, 1) != saved(1, 2, 2)


@pytest.mark.parametrize("name", [folders.KERAS_FILE, *folders.OPENVINO_FILES])
def test_changed_file_is_refused(folder, name):
    """One flipped byte in any file that decides scores is noticed."""
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CatdogError, match=name):
        folders.load(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["dog", "cat"]},
        {"format_version": 99},
        {"preprocessing": {"height": 64, "width": 72, "resize": "crop"}},
        {"files": {"../../etc/passwd": "0" * 64}},
        {"labels": None},
    ],
)
def test_changed_metadata_is_refused(folder, change):
    """Metadata that was edited, or is of another version, does not load."""
    path = folder / folders.METADATA_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CatdogError):
        folders.load(str(folder))


def test_half_written_folder_is_no_model(folder):
    """Metadata is written last: a folder without it is refused, one with half of it too."""
    path = folder / folders.METADATA_FILE
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(CatdogError, match="damaged"):
        folders.load(str(folder))
    path.unlink()
    with pytest.raises(UserInputError, match="no finished model"):
        folders.load(str(folder))


def test_missing_file_is_named(folder):
    """A folder from which a file went missing is refused in one line."""
    (folder / folders.KERAS_FILE).unlink()
    with pytest.raises(CatdogError) as error:
        folders.load(str(folder))
    assert folders.KERAS_FILE in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_with_code_is_refused(tmp_path):
    """A stranger's model with a Lambda layer does not load: Keras' safe mode is on."""
    from catdog.runtime import tensorflow_quirks

    keras = tensorflow_quirks.import_keras(1)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    network.save(tmp_path / folders.KERAS_FILE)
    model = folders.Model(
        uri="x",
        metadata=None,  # type: ignore[arg-type]
        files={folders.KERAS_FILE: (tmp_path / folders.KERAS_FILE).read_bytes()},
    )
    with pytest.raises(ValueError, match=r"(?i)lambda|unsafe|safe"):
        model.keras_model()
