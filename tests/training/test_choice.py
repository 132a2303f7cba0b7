"""What `--architecture auto` becomes: no Ray, no TensorFlow."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest

from catdog.errors import UserInputError, counted
from catdog.model import efficientnet_lite
from catdog.training import choice
from catdog.training.config import TrainConfig
from catdog.training.labelled import TRAIN, VALIDATION


def auto(**flags):
    return TrainConfig(images=("photos",), output="run", **flags)


def photos(images_a_class):
    """Two classes with so many images each to train on, and others that do not count."""
    parts = np.array([TRAIN] * (2 * images_a_class) + [VALIDATION] * 5000, np.int8)
    return types.SimpleNamespace(parts=parts, labels=("cat", "dog"))


@pytest.fixture
def installed(monkeypatch):
    """As if the extra were there."""
    monkeypatch.setattr(efficientnet_lite, "weights_file", lambda: None)


@pytest.fixture
def missing(monkeypatch):
    """As if it were not."""
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "no_such_package_here")


@pytest.mark.parametrize(
    ("images", "architecture"),
    [
        (1, "EfficientNetLite0"),
        (choice.FEW_IMAGES, "EfficientNetLite0"),
        (choice.FEW_IMAGES + 1, "compact"),
    ],
)
def test_few_images_take_what_knows_imagenet(installed, images, architecture):
    """The images to train on decide, and the line says how many they are and what they become."""
    config, line = choice.chosen(auto(), photos(images))
    assert config == auto(architecture=architecture)
    assert line.startswith("auto: ")
    assert architecture in line
    assert f"{counted(images, 'training image')} per class" in line


def test_without_the_extra_it_is_compact_and_says_how_to_get_it(missing):
    """Where the extra would help; of many images it says nothing about it."""
    config, line = choice.chosen(auto(), photos(10))
    assert config.architecture == "compact"
    assert "pip install 'catdog-ray[transfer]'" in line
    assert "pip" not in choice.chosen(auto(), photos(50_000))[1]


@pytest.mark.parametrize(
    ("flags", "architecture"),
    [
        ({"weights": "imagenet"}, "EfficientNetLite0"),
        ({"frozen_epochs": 3}, "EfficientNetLite0"),
        ({"weights": "none"}, "compact"),
        ({"weights": "run/model/model.keras"}, "EfficientNetLite0"),
        ({"augmented_scale": 0.5}, "compact"),
        ({"height": 32, "width": 32}, "compact"),
    ],
)
@pytest.mark.parametrize("images", [10, 50_000])
def test_a_flag_that_fits_one_network_chooses_it(installed, flags, architecture, images):
    """Whatever the number of images."""
    assert choice.chosen(auto(**flags), photos(images))[0].architecture == architecture


def test_a_flag_that_fits_none_is_refused_at_once():
    """Before anything is listed."""
    with pytest.raises(UserInputError, match="--learning-rate"):
        auto(learning_rate=-1.0)


def record(folder, config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"recipe": config.recipe()}))


@pytest.mark.parametrize("architecture", ["compact", "EfficientNetLite0"])
def test_a_rerun_keeps_the_choice(tmp_path, architecture):
    """Whatever images came since; one that begins anew chooses anew."""
    output = tmp_path / "run"
    record(output, auto(architecture=architecture))
    assert choice.recorded(auto(), output.as_uri()).architecture == architecture
    assert choice.recorded(auto(restart=True), output.as_uri()) == auto(restart=True)


def test_auto_is_not_what_another_network_was_asked_for(tmp_path):
    """A run of the article's network is not gone on with by a command that does not name it."""
    record(tmp_path / "run", auto(architecture="article"))
    assert choice.recorded(auto(), (tmp_path / "run").as_uri()) == auto()
    assert choice.recorded(auto(), (tmp_path / "new").as_uri()) == auto()


def test_a_named_network_stays():
    """`auto` is asked for or nothing happens."""
    assert choice.recorded(auto(architecture="article"), "file:///none").architecture == "article"
