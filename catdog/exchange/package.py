"""Turns a network from elsewhere into a model folder, with its preprocessing inside."""

from __future__ import annotations

import json
import logging
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import prediction, scratch, storage
from catdog.errors import UserInputError
from catdog.model import folders
from catdog.pixels import Preprocessing
from catdog.runtime import tensorflow_quirks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catdog.exchange.config import PackageConfig

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Packaged:
    """The result of packaging a network.

    Attributes:
        model: URI of the model folder.
        fingerprint: the model's fingerprint.
        labels: the classes in the order of the scores.
        checked: number of images whose scores were compared.
        largest_difference: the largest difference of a score; None if nothing was compared.
    """

    model: str
    fingerprint: str
    labels: tuple[str, ...]
    checked: int
    largest_difference: float | None


def package(config: PackageConfig) -> Packaged:
    """Turn a network into a model folder, and compare its scores with given ones if there are any.

    The network is converted to OpenVINO's format, and the scaling of its input becomes part of it. A
    model's own code is never run: its operations are OpenVINO's, or Keras' in safe mode.

    Raises:
        UserInputError: the file cannot be read as a model; it has another number of classes; a score
            differs from a given one; or the output folder holds a model.
    """
    labels = _labels(config.labels)
    output = storage.to_uri(config.output)
    with storage.blamed_on(f"--output {config.output}"):
        if storage.exists(storage.join(output, folders.METADATA_FILE)):
            raise UserInputError(f"--output {config.output}: holds a model; name another folder")
    preprocessing = Preprocessing(height=config.height, width=config.width, resize=config.resize)
    network = _read(config)
    network = _with_pixels(network, config, len(labels))
    files = _serialized(network)
    architecture = Path(config.model_file.rstrip("/")).stem
    metadata = folders.describe(
        files,
        labels=labels,
        preprocessing=preprocessing,
        architecture=architecture,
        training={},
    )
    model = folders.Model(config.model_file, metadata, files)
    checked, difference = _check(config, model)
    folders.save(
        output,
        files,
        labels=labels,
        preprocessing=preprocessing,
        architecture=architecture,
        training={},
    )
    return Packaged(output, metadata.fingerprint, labels, checked, difference)


def _labels(given: tuple[str, ...]) -> tuple[str, ...]:
    if len(given) == 1 and given[0].endswith(".txt"):
        with storage.blamed_on(f"--labels {given[0]}"):
            text = storage.read_bytes(storage.to_uri(given[0]), _MAX_BYTES).decode()
        given = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(given) < 2 or len(set(given)) < len(given):
        raise UserInputError("--labels: name two classes or more, each once")
    return given


def _read(config: PackageConfig) -> Any:
    """The network as a model of OpenVINO, from any of the formats."""
    import openvino

    place = Path(config.model_file)
    if not place.exists():
        raise UserInputError(
            f"{place}: there is no such file; models are packaged from local files"
        )
    if place.is_dir() and not (place / "saved_model.pb").exists():
        raise UserInputError(f"{place}: is a folder without saved_model.pb")
    if place.is_file() and place.suffix not in (".keras", ".onnx", ".xml"):
        raise UserInputError(
            f"{place}: name a .keras, .onnx or .xml file, or a SavedModel's folder"
        )
    level = logging.root.level
    try:
        if place.suffix == ".keras":
            return _from_keras(place)
        if place.suffix == ".xml":
            return openvino.Core().read_model(place)
        return openvino.convert_model(place)
    except UserInputError:
        raise
    except Exception as error:  # each reader has its own
        reason = " ".join(str(error).split())[:300]
        raise UserInputError(f"{place}: cannot be read as a model ({reason})") from error
    finally:
        logging.root.setLevel(
            level
        )  # OpenVINO's converter raises it, and leaves it so where it fails


def _from_keras(place: Path) -> Any:
    import openvino

    keras = tensorflow_quirks.import_keras(1)
    # Safe mode refuses Lambda layers: a stranger's model must not run code.
    network = keras.saving.load_model(place, compile=False, safe_mode=True)
    with scratch.temporary_folder() as folder:
        xml = folder / "model.xml"
        with tensorflow_quirks.without_generated_files():
            network.export(str(xml), format="openvino", verbose=False)
        return openvino.Core().read_model(xml.read_bytes(), xml.with_suffix(".bin").read_bytes())


def _with_pixels(network: Any, config: PackageConfig, classes: int) -> Any:
    """The same network with uint8 RGB pixels (n, height, width, 3) as its input, probabilities out."""
    import openvino
    from openvino import opset13 as operations
    from openvino.preprocess import ColorFormat, PrePostProcessor

    last = _colours_last(network, config)
    size = [config.height, config.width]
    try:
        network.reshape([-1, *size, 3] if last else [-1, 3, *size])
    except RuntimeError as error:
        raise UserInputError(
            f"{config.model_file}: takes no images of {config.height}x{config.width}; its input is "
            f"{network.inputs[0].get_partial_shape()}"
        ) from error
    processor = PrePostProcessor(network)
    image = processor.input()
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    image.tensor().set_color_format(ColorFormat.RGB)
    image.model().set_layout(openvino.Layout("NHWC" if last else "NCHW"))
    if network.inputs[0].get_element_type() != openvino.Type.u8:
        mean, std, blue_first = config.scaling()
        steps = image.preprocess()
        steps.convert_element_type(openvino.Type.f32)
        if blue_first:
            steps.convert_color(ColorFormat.BGR)
        steps.mean(list(mean))
        steps.scale(list(std))
    elif config.preset != "pixels" or config.mean is not None:
        raise UserInputError(f"{config.model_file}: takes bytes; no preset, mean or std fits")
    network = processor.build()
    scores = network.outputs[0].get_node().input_value(0)
    found = scores.get_partial_shape()
    width = found[1].get_length() if len(found) == 2 and found[1].is_static else None
    one_score = width == 1 and classes == 2
    if width != classes and not one_score:
        raise UserInputError(
            f"{config.model_file}: gives scores {found}, and --labels names {classes} classes"
        )
    if config.logits:
        made = operations.sigmoid(scores) if one_score else operations.softmax(scores, 1)
        scores = made.output(0)
    return openvino.Model([scores], network.get_parameters(), "scores")


def _colours_last(network: Any, config: PackageConfig) -> bool:
    """Whether the input is (n, height, width, 3), and not (n, 3, height, width)."""
    if len(network.inputs) != 1:
        raise UserInputError(
            f"{config.model_file}: has {len(network.inputs)} inputs; it must have one"
        )
    shape = network.inputs[0].get_partial_shape()
    sizes = [each.get_length() if each.is_static else None for each in shape]
    if len(sizes) != 4 or 3 not in (sizes[1], sizes[3]):
        raise UserInputError(f"{config.model_file}: its input {shape} is not a batch of RGB images")
    return sizes[1] != 3


def _serialized(network: Any) -> Mapping[str, bytes]:
    import openvino

    with scratch.temporary_folder() as folder:
        xml, binary = (folder / name for name in folders.OPENVINO_FILES)
        openvino.serialize(network, xml, binary)
        return {xml.name: xml.read_bytes(), binary.name: binary.read_bytes()}


def _check(config: PackageConfig, model: folders.Model) -> tuple[int, float | None]:
    """Compare with the user's scores; returns their number and the largest difference."""
    loaded = prediction.LoadedModel(model, precision="float32")
    if config.check is None:
        return 0, None
    flag = f"--check {config.check}"
    with storage.blamed_on(flag):
        lines = storage.read_bytes(storage.to_uri(config.check), _MAX_BYTES).splitlines()
    largest, worst, count = 0.0, "", 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            image, expected = str(pair["image"]), np.asarray(pair["scores"], np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise UserInputError(
                f"{flag}: line {number} is not a JSON object with `image` and `scores`"
            ) from error
        if "://" not in image:
            image = posixpath.join(posixpath.dirname(config.check), image)
        (answer,) = loaded.predict(image)
        if answer.scores is None:
            raise UserInputError(f"{flag}: {image}: {answer.error}: {answer.error_detail}")
        if expected.shape != (len(answer.scores),):
            raise UserInputError(
                f"{flag}: line {number} has scores of shape {expected.shape}, "
                f"and there are {len(answer.scores)} classes"
            )
        count += 1
        difference = float(np.abs(expected - answer.scores).max())
        if not difference <= largest:
            largest, worst = (
                difference,
                f"{image}: {_few(expected)} expected, {_few(answer.scores)}",
            )
    if not count:
        raise UserInputError(f"{flag}: is empty")
    if not largest <= config.tolerance:
        raise UserInputError(
            f"{flag}: scores differ by {largest:.3g}, more than --tolerance {config.tolerance:g} "
            f"({worst} found): check resize, preset, mean and std, the order of labels, and logits"
        )
    return count, largest


def _few(scores: Any) -> str:
    shown = ", ".join(f"{each:.3f}" for each in list(scores)[:4])
    return f"[{shown}{', ...' if len(scores) > 4 else ''}]"
