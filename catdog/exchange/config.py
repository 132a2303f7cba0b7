"""The configurations of `package` and `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro.conf

from catdog.errors import UserInputError
from catdog.model import folders
from catdog.pixels import check_sides

Preset = Literal["pixels", "unit", "symmetric", "imagenet", "caffe"]
Format = Literal["onnx", "openvino", "tflite", "saved-model"]


@dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """Which network to turn into a model folder, and what its numbers mean.

    Attributes:
        model_file: A `.keras`, `.onnx` or OpenVINO `.xml` file, or the folder of a TensorFlow
            SavedModel.
        output: Model folder to write; local or S3.
        labels: The classes in the order of the network's scores, or one `.txt` file with a label
            per line. If the network has one score, that is the probability of the second label.
        height: Height of the network's input in pixels.
        width: Width of the network's input in pixels.
        resize: How to fit an image to the input: `stretch` it, `crop` the middle, or `pad` it.
        preset: Range of the network's input. `pixels`: 0 to 255. `unit`: 0 to 1. `symmetric`: -1 to
            1. `imagenet`: unit, minus ImageNet's mean colour, divided by its standard deviation.
            `caffe`: 0 to 255, blue first, minus the mean.
        mean: Mean of red, green and blue, from 0 to 1, to subtract before dividing by `std`.
            Replaces the preset.
        std: Standard deviation of red, green and blue, from 0 to 1.
        logits: The network gives logits: apply softmax, or sigmoid to a single score.
        check: JSON Lines file with the `scores` that the model's makers get for each `image` (a
            path relative to the file). A difference above `tolerance` is an error.
        tolerance: Largest permitted difference of a score.
    """

    model_file: tyro.conf.Positional[str]
    output: str
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL ...")]
    height: int
    width: int
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    preset: Preset = "pixels"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    logits: bool = False
    check: str | None = None
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if not self.labels:
            raise UserInputError("--labels: name the classes, or a .txt file of them")
        check_sides(self.height, self.width)
        if (self.mean is None) != (self.std is None):
            raise UserInputError("--mean and --std go together")
        if self.mean is not None and self.preset != "pixels":
            raise UserInputError("--mean and --preset exclude each other")
        if self.std is not None and min(self.std) <= 0:
            raise UserInputError("--std must be more than 0")
        if not self.tolerance > 0:
            raise UserInputError("--tolerance must be more than 0")

    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
        """Mean and deviation of pixels from 0 to 255, and whether blue comes first."""
        if self.mean is not None and self.std is not None:
            unit = self.mean, self.std
        else:
            unit = {
                "pixels": ((0.0,) * 3, (1 / 255,) * 3),
                "unit": ((0.0,) * 3, (1.0,) * 3),
                "symmetric": ((0.5,) * 3, (0.5,) * 3),
                "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                "caffe": ((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,) * 3),
            }[self.preset]
        mean, std = (tuple(255 * each for each in colours) for colours in unit)
        return mean, std, self.preset == "caffe"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which model to write for which runtime.

    Attributes:
        model: A training run's folder or a model folder, local or S3. `cats-and-dogs` and
            `cats-and-dogs-large` come with the package.
        format: `onnx`, `openvino`, `tflite` or `saved-model`. The exported model takes uint8 RGB
            pixels (n, height, width, 3) and returns the probability of each class, or of the second
            of two.
        output: Local folder to write. Its `catdog.json` names labels and preprocessing.
    """

    format: Format
    output: str
    model: str = folders.SHIPPED
