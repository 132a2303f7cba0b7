"""The configuration of `catdog predict`."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro.conf

from catdog import storage
from catdog.errors import UserInputError
from catdog.model import Engine, folders
from catdog.runtime import Precision


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which images to score in this process, with which model.

    Attributes:
        images: Image files, URIs of images, globs, or members of archives as results name them; `-` is
            one image on standard input.
        model: A training run's folder or a model folder, local or S3. `cats-and-dogs` and
            `cats-and-dogs-large` come with the package.
        precision: Number format of the arithmetic. `auto` is bfloat16 on CPUs with hardware for it,
            float32 elsewhere.
        engine: Library that runs the network. `auto` is OpenVINO.
        top: Show the labels and probabilities of this many best classes.
        stores: Access to the stores of images, results and model.
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    model: str = folders.SHIPPED
    precision: Precision = "auto"
    engine: Engine = "auto"
    top: int | None = None
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)

    def __post_init__(self) -> None:
        if not self.images:
            raise UserInputError("IMAGES: name at least one image")
        if self.images.count("-") > 1:
            raise UserInputError("IMAGES -: is one image, standard input; name it once")
        if self.top is not None and self.top < 1:
            raise UserInputError("--top must be at least 1")
