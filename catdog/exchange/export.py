"""Exports a model folder for another runtime, and compares the scores of both."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import storage
from catdog.demo import drawings
from catdog.errors import UserInputError, naming_full_disk
from catdog.model import folders, inference
from catdog.pixels import DecodeLimits, decode
from catdog.runtime import tensorflow_quirks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from catdog.exchange.config import ExportConfig

    Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

PICTURES = 100
_BATCH = 20
_DESCRIPTION = "catdog.json"
_EXTRAS = {"onnx": ("onnx", "tf2onnx", "onnxruntime"), "tflite": ("ai_edge_litert",)}


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        output: URI of the folder.
        files: names of the files in it.
        pictures: number of pictures that both runtimes scored.
        largest_difference: the largest difference of a score.
        same_labels: number of pictures with the same label in both.
    """

    output: str
    files: tuple[str, ...]
    pictures: int
    largest_difference: float
    same_labels: int


def export(config: ExportConfig) -> Exported:
    """Write a model for another runtime, and score 100 drawn pictures in both, in float32.

    Raises:
        UserInputError: there is no model; the folder is not empty; the format needs packages that
            are not installed; or the model has no Keras file to convert.
    """
    for name in _EXTRAS.get(config.format, ()):
        if importlib.util.find_spec(name) is None:
            raise UserInputError(
                f"--format {config.format}: needs packages that are not installed; "
                "run `pip install 'catdog-ray[export]'`"
            )
    with storage.blamed_on(f"--model {config.model}"):
        model = folders.load(config.model)
    if config.format != "openvino" and folders.KERAS_FILE not in model.files:
        raise UserInputError(
            f"--format {config.format}: {model.uri} holds no {folders.KERAS_FILE} to export"
        )
    with storage.blamed_on(f"--output {config.output}"):
        uri = storage.to_uri(config.output)
        if not storage.is_local(uri):
            raise UserInputError(f"--output {config.output}: name a local folder")
        if storage.list_names(uri):
            raise UserInputError(f"--output {config.output}: is not empty; name another folder")
    output = Path(storage.local_path(uri))
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        naming_full_disk(str(output)),
        tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as made,
    ):
        folder = Path(made)
        with tensorflow_quirks.without_generated_files():
            run = _FORMATS[config.format](model, folder)
        (folder / _DESCRIPTION).write_text(_description(model))
        pixels = _pictures(model)
        ours = inference.load_predictor(model, precision="float32")(pixels)
        theirs = np.concatenate(
            [run(pixels[start : start + _BATCH]) for start in range(0, PICTURES, _BATCH)]
        )
        shutil.copytree(folder, output, dirs_exist_ok=True)
    return Exported(
        uri,
        tuple(
            sorted(
                path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()
            )
        ),
        PICTURES,
        float(np.abs(ours - theirs).max()),
        int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
    )


def _description(model: folders.Model) -> str:
    metadata = model.metadata
    content = {
        "labels": list(metadata.labels),
        "preprocessing": metadata.preprocessing.to_json_dict(),
        "input": "uint8 RGB pixels (n, height, width, 3)",
        "output": "probability of the second label"
        if len(metadata.labels) == 2 and not metadata.multi_label
        else "probability of each label",
        "multi_label": metadata.multi_label,
        "fingerprint": metadata.fingerprint,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _pictures(model: folders.Model) -> NDArray[np.uint8]:
    """Drawn cats and dogs, as the model sees them."""
    data = [
        drawings.draw_jpeg("dog" if number % 2 else "cat", number) for number in range(PICTURES)
    ]
    limits = DecodeLimits()
    return np.stack([decode(each, model.metadata.preprocessing, limits).pixels for each in data])


def _keras(model: folders.Model) -> Any:
    tensorflow_quirks.import_keras(1)
    network = model.keras_model()
    # Keras refuses to convert a sequential model to ONNX that was never called.
    network(np.zeros((1, *network.input_shape[1:]), np.uint8))
    return network


def _both(scores: Any) -> NDArray[np.float32]:
    return inference.both_classes(np.asarray(scores, np.float32))


def _to_openvino(model: folders.Model, folder: Path) -> Run:
    import openvino

    if not {*folders.OPENVINO_FILES} <= model.files.keys():
        raise UserInputError(f"--format openvino: {model.uri} holds no {folders.OPENVINO_FILES[0]}")
    for name in folders.OPENVINO_FILES:
        (folder / name).write_bytes(model.files[name])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(folder / folders.OPENVINO_FILES[0], "CPU", exact)
    return lambda pixels: _both(compiled(pixels)[0])


def _to_onnx(model: folders.Model, folder: Path) -> Run:
    import onnxruntime

    place = folder / "model.onnx"
    with warnings.catch_warnings():
        # Keras 3.15 asks whether NumPy has `np.object`, and NumPy 2 warns of the question.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        _keras(model).export(str(place), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: _both(session.run(None, {name: pixels})[0])


def _to_tflite(model: folders.Model, folder: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    place = folder / "model.tflite"
    _keras(model).export(str(place), format="litert", verbose=False)
    interpreter = Interpreter(str(place))

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        (given,), (got,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], pixels)
        interpreter.invoke()
        return _both(interpreter.get_tensor(got["index"]))

    return run


def _to_saved_model(model: folders.Model, folder: Path) -> Run:
    network = _keras(model)
    import tensorflow as tf

    network.export(str(folder / "saved_model"), format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    return lambda pixels: _both(loaded.serve(pixels).numpy())


_FORMATS: dict[str, Callable[[folders.Model, Path], Run]] = {
    "openvino": _to_openvino,
    "onnx": _to_onnx,
    "tflite": _to_tflite,
    "saved-model": _to_saved_model,
}
