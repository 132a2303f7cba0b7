"""Data-parallel training on a real Ray cluster."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from catdog import images, sources, storage, training
from catdog.decode_actor import DecodeEntries
from catdog.errors import CatdogError, UserInputError
from catdog.images import DecodeLimits
from catdog.sources import SourceLimits
from catdog.training import TrainConfig, train

pytestmark = pytest.mark.slow


def local(uri):
    return storage.local_path(uri)


def test_run_folder_holds_what_the_contract_says(tiny_run, tiny_config):
    """Metrics with one row an epoch, curves that open, the configuration, the model."""
    with open(local(storage.join(tiny_run.output, "metrics.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(training.METRICS_COLUMNS)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert all(np.isfinite([float(value) for value in row.values()]).all() for row in rows)
    with Image.open(local(storage.join(tiny_run.output, "curves.png"))) as curves:
        assert curves.size > (300, 200)
    with open(local(storage.join(tiny_run.output, "config.json"))) as file:
        assert json.load(file)["recipe"] == json.loads(json.dumps(tiny_config.recipe()))
    assert tiny_run.labels == ("cat", "dog")
    assert sum(tiny_run.images.values()) == 160


def test_the_best_epoch_is_kept(tiny_run):
    """The model's record names the epoch with the highest validation accuracy, not the last."""
    best = max(row["val_accuracy"] for row in tiny_run.history)
    assert tiny_run.best["val_accuracy"] == best


def test_finished_run_does_nothing_again(tiny_run, tiny_config):
    """`--resume` on a finished run gives its result back and touches nothing."""
    again = train(dataclasses.replace(tiny_config, resume=True))
    assert again.fingerprint == tiny_run.fingerprint
    assert list(again.history) == list(tiny_run.history)


def test_used_output_is_refused(tiny_run, tiny_config, tmp_path):
    """A run is never written over, and another recipe cannot go on with it."""
    with pytest.raises(UserInputError, match="--resume"):
        train(tiny_config)
    with pytest.raises(UserInputError, match=r"--learning-rate was 0\.001, is 0\.5"):
        train(dataclasses.replace(tiny_config, resume=True, learning_rate=0.5))
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserInputError, match="not empty"):
        train(dataclasses.replace(tiny_config, output=str(tmp_path)))


def test_two_workers_follow_the_loss_of_one(ray_cluster, tiny_config, tmp_path):
    """In float32, with one global batch size, the workers' number changes rounding only.

    Compared over 3 epochs of 4 steps each, with shares of 8 and 8 and (for three images a worker
    missing at the end of validation) unequal slices. RMSprop divides by small numbers in its first
    steps, which magnifies rounding: losses agree to 1e-3 of their value.
    """
    histories = []
    for workers in (1, 2):
        config = dataclasses.replace(
            tiny_config,
            output=str(tmp_path / str(workers)),
            workers=workers,
            precision="float32",
            steps_per_epoch=4,
            learning_rate=1e-4,
        )
        histories.append(train(config).history)
    for one, two in zip(*histories, strict=True):
        for name in ("loss", "val_loss"):
            assert two[name] == pytest.approx(one[name], rel=1e-3)
    # The order of images matters: the comparison is no tautology of a constant loss.
    assert len({row["loss"] for row in histories[0]}) == 3


def test_killed_driver_resumes_to_the_same_history(ray_cluster, tiny_config, tmp_path):
    """SIGKILL of the driver in the middle of training: `--resume` ends with every epoch once.

    Weights, optimizer state and the place in the order of images come back: the losses are those
    of an undisturbed run.
    """
    undisturbed = dataclasses.replace(
        tiny_config, output=str(tmp_path / "undisturbed"), precision="float32", epochs=4
    )
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "catdog", "train", *tiny_config.images, "--output", output]
    for name in ("workers", "batch_size", "height", "width", "learning_rate", "validation", "seed"):
        command += [f"--{name.replace('_', '-')}", getattr(tiny_config, name)]
    command = [str(part) for part in [*command, "--epochs", 4, "--precision", "float32", "--json"]]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    checkpoints = output / "checkpoints"
    while len(list(checkpoints.glob("checkpoint_*"))) < 2 and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    assert not (output / "model" / "metadata.json").exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    history = json.loads(done.stdout)["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    for ours, theirs in zip(history, train(undisturbed).history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)


def test_training_sees_the_pixels_of_classification(drawings, tiny_config):
    """The actor that decodes for training gives what `images.decode` gives for the same bytes."""
    limits = SourceLimits()
    plan = pa.Table.from_batches(
        list(sources.list_images([str(drawings / "cat")], limits)), sources.PLAN_SCHEMA
    ).slice(0, 20)
    preprocessing = tiny_config.preprocessing
    actor = DecodeEntries(preprocessing, DecodeLimits(), limits, ("index",))
    block = actor(plan.append_column("index", pa.array(range(plan.num_rows), pa.int64())))
    for uri, pixels in zip(plan["uri"].to_pylist(), block["pixels"].to_pylist(), strict=True):
        expected = images.decode(storage.read_bytes(uri, 10**7), preprocessing, DecodeLimits())
        assert pixels == expected.pixels.tobytes()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"a.jpg": b"x", "b.jpg": b"x"}, "no labels"),
        ({"cat/a.jpg": b"x"}, "1 class"),
        ({}, "no image"),
    ],
)
def test_unusable_images_are_named(tmp_path, layout, message):
    """What cannot be trained on is refused with one line before Ray starts."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in layout.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    with pytest.raises(UserInputError, match=message) as error:
        train(TrainConfig(images=(str(folder),), output=str(tmp_path / "run")))
    assert "\n" not in str(error.value)


def test_too_many_broken_images_stop_training(ray_cluster, drawings, tiny_config, tmp_path):
    """Above --max-rejected the run fails, names the first file, and lists all of them."""
    folder = tmp_path / "images"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number, path in enumerate(sorted((drawings / label).iterdir())[:20]):
            content = path.read_bytes()
            (folder / label / path.name).write_bytes(content[:100] if number % 3 else content)
    config = dataclasses.replace(tiny_config, images=(str(folder),), output=str(tmp_path / "run"))
    with pytest.raises(CatdogError, match="max-rejected"):
        train(config)
    with open(tmp_path / "run" / "rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 26
    assert {row["error"] for row in rows} <= {"truncated", "not-an-image"}
