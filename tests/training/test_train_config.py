"""Recipes, the learning rate and what is refused: no Ray, no TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest

from catdog.errors import UserInputError
from catdog.runtime import fit
from catdog.training import config as train_config
from catdog.training.config import TrainConfig, best_row, learning_rate, marked
from catdog.training.job import train


def config(**arguments):
    return TrainConfig(images=("photos",), output="run", **arguments)


def test_seed_is_articles_former_name():
    """Old commands train the same, under the name of today."""
    assert config(architecture="seed") == config(architecture="article")
    assert config(architecture="seed").recipe()["architecture"] == "article"


def test_article_is_trained_as_the_article_says():
    """Its recipe has nothing that the article does not have."""
    assert dataclasses.asdict(config(architecture="article").hyperparameters) == {
        "epochs": 30,
        "batch_size": 32,
        "height": 150,
        "width": 150,
        "optimizer": "rmsprop",
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "gradient_clip": 0.0,
        "label_smoothing": 0.0,
        "augmentation": "none",
        "augmented_scale": 1.0,
        "weight_average": 0.0,
        "calibration": "none",
        "frozen_epochs": 0,
    }


def test_what_is_asked_for_comes_before_the_recipe():
    """A flag overrides its architecture's recipe, 0 too, and the record shows what was done."""
    asked = config(architecture="compact", learning_rate=0.5, weight_decay=0.0, height=64)
    assert asked.hyperparameters == dataclasses.replace(
        train_config.COMPACT, learning_rate=0.5, weight_decay=0.0, height=64
    )
    assert asked.preprocessing.height == 64
    assert asked.recipe()["learning_rate"] == 0.5
    assert asked.recipe()["schedule"] == "cosine"


def test_a_short_run_of_compact_has_its_own_recipe():
    """The steps decide, an asked value stays, and no other network is concerned."""
    short = dataclasses.asdict(train_config.COMPACT_SHORT) | {"epochs": 5}
    asked = config(architecture="compact", epochs=5)
    assert dataclasses.asdict(asked.for_images(4_500).hyperparameters) == short
    assert asked.for_images(100_000) == asked
    assert config(architecture="compact").for_images(18_029).hyperparameters == train_config.COMPACT
    own = dataclasses.replace(asked, optimizer="sgd", batch_size=48).for_images(4_500)
    assert (own.optimizer, own.batch_size, own.augmentation) == ("sgd", 48, "light")
    assert dataclasses.replace(asked, steps_per_epoch=400).for_images(10).optimizer is None
    assert dataclasses.replace(asked, workers=40).for_images(4_500).batch_size == 40
    grown = dataclasses.replace(asked, batch_size_per_worker=8).for_images(4_500)
    assert grown.on_workers(2).hyperparameters.batch_size == 16
    for other in ("article", "EfficientNetLite0"):
        assert config(architecture=other).for_images(10) == config(architecture=other)


def test_a_batch_is_shared_or_grows_with_the_workers():
    """`--batch-size` is the global batch whatever the workers; the other one is each worker's."""
    shared, grown = config(batch_size=48), config(batch_size_per_worker=48)
    assert [shared.on_workers(n).hyperparameters.batch_size for n in (1, 2, 6)] == [48, 48, 48]
    assert [grown.on_workers(n).hyperparameters.batch_size for n in (1, 2, 6)] == [48, 96, 288]
    assert (shared.workers_of(100), grown.workers_of(100)) == (48, 100)
    assert config(workers=1000, batch_size_per_worker=2).workers == 1000


def test_the_learning_rate_rises_falls_and_ends_at_zero():
    """Warm-up reaches the highest rate, the cosine falls all the way, no step is above it."""
    recipe = dataclasses.replace(train_config.COMPACT, epochs=10, warmup=0.2, learning_rate=0.1)
    rates = [learning_rate(recipe, step, 50) for step in range(500)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[99] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(rates[:100]))
    assert all(a > b for a, b in itertools.pairwise(rates[101:]))
    assert 0 < rates[-1] < 1e-5


@pytest.mark.parametrize("recipe", ["COMPACT", "COMPACT_SHORT", "TRANSFER", "PROBE"])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 7), (5, 39), (200, 176)])
def test_a_schedule_fits_the_run(recipe, epochs, steps):
    """However short a run, warm-up is a small part of it, and the rate ends near 0."""
    whole = getattr(train_config, recipe)
    short = dataclasses.replace(whole, epochs=epochs, frozen_epochs=0)
    rates = [learning_rate(short, step, steps) for step in range(epochs * steps)]
    assert rates.index(max(rates)) <= 0.13 * len(rates)
    assert max(rates) == whole.learning_rate
    if len(rates) > 10:
        assert rates[-1] < 0.05 * whole.learning_rate


def test_compacts_own_run_warms_up_as_before():
    """Three of its 200 epochs, to the step: models with its recipe come out the same."""
    rates = [learning_rate(train_config.COMPACT, step, 176) for step in range(4 * 176)]
    assert rates[: 3 * 176] == [2e-3 * (step + 1) / (3 * 176) for step in range(3 * 176)]
    assert rates[3 * 176 + 1] < 2e-3


def test_the_seeds_learning_rate_stays():
    """`constant` means what it says."""
    assert {learning_rate(train_config.ARTICLE, step, 2000) for step in range(0, 60_000, 999)} == {
        1e-4
    }


def test_fine_tuning_is_slower_than_the_new_head():
    """After the frozen epochs the highest rate is a tenth."""
    recipe = dataclasses.replace(train_config.TRANSFER, frozen_epochs=2, epochs=10)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    assert set(rates[:20]) == {recipe.learning_rate}
    assert max(rates[20:]) == pytest.approx(recipe.learning_rate / 10)


def test_the_monitor_decides_what_is_best():
    """Accuracy and loss can disagree; equal accuracies are told apart by the loss."""
    history = [
        {"epoch": 1, "val_accuracy": 0.9, "val_loss": 0.3},
        {"epoch": 2, "val_accuracy": 0.95, "val_loss": 0.5},
        {"epoch": 3, "val_accuracy": 0.95, "val_loss": 0.4},
    ]
    assert best_row(history, "val_accuracy")["epoch"] == 3
    assert best_row(history, "val_loss")["epoch"] == 1


def test_each_epoch_that_was_the_best_so_far_is_marked():
    """Whatever comes later, and also where accuracy stays at its highest and only the loss falls."""
    losses = [0.5, 0.4, 0.6, 0.3, 0.3]
    history = [{"val_accuracy": 1.0, "val_loss": loss} for loss in losses]
    for monitor in ("val_accuracy", "val_loss"):
        assert [best for _, best in marked(history, monitor)] == [True, True, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"architecture": "resnet"}, "--architecture resnet"),
        ({"architecture": "compact", "weights": "imagenet"}, "--weights imagenet"),
        ({"architecture": "MobileNetV2", "frozen_epochs": 1}, "--frozen-epochs 1"),
        ({"architecture": "compact", "weights": "a.keras", "frozen_epochs": 1}, "as a whole"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"weight_average": 1.0}, "--weight-average"),
        ({"label_smoothing": -0.1}, "--label-smoothing"),
        ({"augmented_scale": 0.1}, "--augmented-scale"),
        ({"architecture": "article", "augmented_scale": 0.8}, "one size only"),
        ({"augmentation": "none", "augmented_scale": 0.8}, "--augmentation none"),
        ({"height": 0}, "--height 0: must be from 1 to 4096"),
        ({"architecture": "compact", "width": 5000}, "--width 5000: must be from 1 to 4096"),
        ({"architecture": "article", "height": 45}, "--height 45: .* at least 46x46"),
        ({"architecture": "InceptionV3", "width": 74}, "--width 74: .* at least 75x75"),
        ({"architecture": "VGG16", "height": 31}, "--height 31: .* at least 32x32"),
        (
            {"architecture": "VGG16", "augmented_scale": 0.5, "height": 62},
            "--augmented-scale 0.5: .* at least 32x32",
        ),
        ({"gradient_clip": -1.0}, "--gradient-clip"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size_per_worker": 0}, "--batch-size-per-worker"),
        ({"batch_size": 32, "batch_size_per_worker": 16}, "give one of them"),
        ({"epochs": 0}, "--epochs"),
        ({"validation": 0.6, "test": 0.4}, "--validation and --test"),
        ({"multi_label": True, "class_weights": "balanced"}, "--class-weights"),
        ({"multi_label": True, "teacher": "runs/teacher"}, "--teacher"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments, named):
    """One line that names the flag, before anything starts."""
    with pytest.raises(UserInputError, match=named) as error:
        config(**arguments)
    assert "\n" not in str(error.value)


STUCK = """
import threading, time
from catdog.training import network
network.STEP_TIMEOUT_S = 0.7
with network.step_limit() as begin_step:
    for _ in range(10):
        time.sleep(0.1)
        begin_step()
print("ten steps", flush=True)
time.sleep(1)
print("outside", flush=True)
with network.step_limit():
    threading.Event().wait()
"""


@pytest.mark.slow
def test_a_worker_that_is_stuck_ends_itself():
    """No step within the limit: the process ends and says where it was; a slow sum of steps may."""
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout.split("\n") == ["ten steps", "outside", ""]
    assert "in wait" in done.stderr


def test_room_for_decoded_images_counts_copies():
    """Stores and disks together; several nodes have a second copy of what another one decoded."""
    assert fit.ObjectRoom(1, 10, 5, ()).holds(15)
    assert not fit.ObjectRoom(1, 10, 5, ()).holds(16)
    assert fit.ObjectRoom(3, 10, 6, ()).holds(8)
    assert not fit.ObjectRoom(3, 10, 6, ()).holds(9)


@pytest.mark.parametrize("output", ["az://container/run", "gcs://bucket/run", "https://host/run"])
def test_a_training_goes_to_no_other_store(output):
    """Refused before anything is listed or claimed, from a program too."""
    with pytest.raises(UserInputError, match="a training run writes to a local folder or to s3://"):
        train(TrainConfig(images=("photos",), output=output))
