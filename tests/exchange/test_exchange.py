"""Models in and out: other people's networks, and ours in other runtimes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from catdog import exchange, prediction
from catdog.cli import main
from catdog.demo import drawings
from catdog.errors import UserInputError
from catdog.exchange import ExportConfig, PackageConfig
from catdog.model import folders, inference
from catdog.runtime import tensorflow_quirks

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SIZE = {"height": 32, "width": 40}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """An ONNX network as others make them: NCHW, float, logits of three classes."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.normal(0, 0.3, (4, 3, 8, 8)),
        "matrix": random.normal(0, 2, (4, 3)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["c"], strides=[8, 8]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "matrix"], ["logits"]),
        ],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 40])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(each.astype(np.float32), n) for n, each in weights.items()],
    )
    place = tmp_path_factory.mktemp("network") / "network.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), place)
    return place


@pytest.fixture(scope="module")
def pairs(network, tmp_path_factory):
    """Pictures of the network's size, with the scores that its makers get in ONNX Runtime."""
    folder = tmp_path_factory.mktemp("pairs")
    session = onnxruntime.InferenceSession(network)
    lines = []
    for number in range(6):
        place = folder / f"{number}.png"
        (folder / "x.jpg").write_bytes(drawings.draw_jpeg("cat", number))
        Image.open(folder / "x.jpg").resize((40, 32)).save(place)
        pixels = (np.asarray(Image.open(place)) / 255 - MEAN) / STD
        (logits,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None].astype("f")})
        scores = np.exp(logits[0]) / np.exp(logits[0]).sum()
        lines.append(json.dumps({"image": place.name, "scores": scores.tolist()}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


def asked(network, output, **changed):
    settings = {"labels": ("ant", "bee", "fly"), "preset": "imagenet", "logits": True} | SIZE
    return PackageConfig(model_file=str(network), output=str(output), **settings | changed)


@pytest.mark.slow
def test_package_of_an_onnx_network_scores_as_its_makers_do(network, pairs, tmp_path):
    """The folder is a model like any other: its preprocessing is inside, its scores are checked."""
    made = exchange.package(asked(network, tmp_path / "model", check=str(pairs)))
    assert made.checked == 6
    assert made.largest_difference < 1e-4
    model = prediction.load(tmp_path / "model", precision="float32", embeddings=True)
    assert model.metadata.fingerprint == made.fingerprint
    pair = json.loads(pairs.read_text().splitlines()[0])
    (answer,) = model.predict(pairs.parent / pair["image"])
    assert answer.scores == pytest.approx(pair["scores"], abs=1e-4)
    assert answer.label == ("ant", "bee", "fly")[int(np.argmax(pair["scores"]))]
    assert len(answer.embedding) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preset": "unit"}, "scores differ by"),
        ({"logits": False}, "scores differ by"),
        ({"labels": ("ant", "bee")}, "names 2 classes"),
        ({"labels": ("ant", "bee", "bee")}, "each once"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean and --std"),
        ({"model_file": "none.onnx"}, "no such file"),
        ({"model_file": __file__}, "name a .keras, .onnx or .xml file"),
        ({"check": "none.jsonl"}, "--check none.jsonl"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(network, pairs, tmp_path, changed, said):
    """Another preprocessing, another number of classes, no file: one line, and no model folder."""
    place = changed.pop("model_file", network)
    settings = {"check": str(pairs)} | changed
    with pytest.raises(UserInputError, match=said):
        exchange.package(asked(place, tmp_path / "model", **settings))
    assert not (tmp_path / "model").exists()


def test_damaged_networks_are_one_line(tmp_path, capsys):
    """Whatever the reader says of it; and the log of this process is as it was."""
    level = logging.root.level
    for name in ("a.onnx", "a.xml"):
        (tmp_path / name).write_bytes(b"no model")
        words = ["package", str(tmp_path / name), "--output", str(tmp_path / "model")]
        assert main([*words, "--labels", "a", "b", "--height", "8", "--width", "8"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "cannot be read as a model" in error
        assert logging.root.level == level


def test_our_own_network_can_be_packaged(tiny_model, tmp_path):
    """An OpenVINO file that takes bytes is taken as it is, labels from a file."""
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    config = PackageConfig(
        model_file=f"{tiny_model}/model.xml",
        output=str(tmp_path / "model"),
        labels=(str(tmp_path / "labels.txt"),),
        height=64,
        width=72,
    )
    exchange.package(config)
    picture = drawings.draw_jpeg("dog", 3)
    one, two = (
        prediction.load(each, precision="float32").predict(picture)[0].scores
        for each in (tiny_model, tmp_path / "model")
    )
    assert one == pytest.approx(two, abs=1e-6)
    with pytest.raises(UserInputError, match="holds a model"):
        exchange.package(config)
    with pytest.raises(UserInputError, match=r"holds no model\.keras"):
        exchange.export(
            ExportConfig(model=str(tmp_path / "model"), format="onnx", output=str(tmp_path / "out"))
        )


@pytest.mark.slow
def test_export_to_openvino_says_how_near_it_is(tiny_model, tmp_path, capsys):
    """Files, a description of what goes in and comes out, and the parity on 100 pictures."""
    words = ["export", "--model", tiny_model, "--format", "openvino", "--json"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["catdog.json", "model.bin", "model.xml"]
    assert (told["pictures"], told["same_labels"]) == (100, 100)
    assert told["largest_difference"] < 1e-5
    description = json.loads((tmp_path / "out" / "catdog.json").read_text())
    assert description["labels"] == ["cat", "dog"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "tflite", "saved-model"])
def test_exported_networks_run_in_their_own_runtime(tiny_model, tmp_path, name):
    """Scored there, 100 pictures have the same labels and the same scores up to rounding."""
    made = exchange.export(
        ExportConfig(model=tiny_model, format=name, output=str(tmp_path / "out"))
    )
    assert made.same_labels == 100
    assert made.largest_difference < 1e-4
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]


@pytest.mark.slow
def test_keras_files_and_saved_models_are_packaged(tiny_model, tmp_path):
    """A network without our layers around it: floats from -1 to 1, one score of two classes."""
    keras = tensorflow_quirks.import_keras(1)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((32, 40, 3)),
            keras.layers.Conv2D(4, 5, strides=4, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.save(tmp_path / "net.keras")
    network.export(str(tmp_path / "saved"), verbose=False)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 40, 3), np.uint8)
    expected = network(pixels / 127.5 - 1).numpy()[:, 0]
    for name in ("net.keras", "saved"):
        output = tmp_path / f"model-{name}"
        exchange.package(
            asked(
                tmp_path / name,
                output,
                labels=("no", "yes"),
                preset="symmetric",
                logits=False,
            )
        )
        predict = inference.load_predictor(folders.load(str(output)), precision="float32")
        np.testing.assert_allclose(predict(pixels)[:, 1], expected, atol=1e-5)
    code = keras.Sequential([keras.Input((32, 40, 3)), keras.layers.Lambda(lambda x: x)])
    code.save(tmp_path / "code.keras")
    with pytest.raises(UserInputError, match="cannot be read as a model"):
        exchange.package(asked(tmp_path / "code.keras", tmp_path / "no"))
    assert not Path(tmp_path / "no").exists()
