"""Data-parallel training: Keras under TensorFlow's strategy on workers that Ray Train starts.

The flow: `train` (the driver) lists the images and has Ray Data decode them; `train_worker` runs on
every worker and reports a checkpoint each epoch; the driver shows the progress and writes the run's
folder.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import queue
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog import storage
from catdog.errors import CatdogError, UserInputError
from catdog.inputs import SourceLimits
from catdog.model import architectures, folders
from catdog.observer import Observer
from catdog.pixels import DecodeLimits
from catdog.runtime import ray_quirks, tensorflow_quirks
from catdog.training import data
from catdog.training.config import TrainConfig, best_row
from catdog.training.worker import TEMPERATURE_FILE, train_worker

if TYPE_CHECKING:
    from catdog.training.data import DecodedImages

__all__ = ["METRICS_COLUMNS", "TrainConfig", "TrainResult", "train"]

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
TENSORBOARD_FILE = "tensorboard/events.out.tfevents.catdog"
REJECTED_FILE = "rejected.csv"
METRICS_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_s",
    "seconds",
)


@dataclass(frozen=True)
class TrainResult:
    """What came out of a run.

    Attributes:
        output: URI of the run's folder.
        model: URI of the model folder, the best epoch's.
        fingerprint: of the model.
        best: the best epoch's row of the metrics.
        history: one row per epoch, with the columns of `METRICS_COLUMNS`.
        labels: the classes.
        images: numbers of images by part, and rejected.
        seconds: wall time of the whole job.
    """

    output: str
    model: str
    fingerprint: str
    best: dict[str, float]
    history: tuple[dict[str, float], ...]
    labels: tuple[str, ...]
    images: dict[str, int]
    seconds: float


def train(config: TrainConfig, observer: Observer | None = None) -> TrainResult:
    """Train as configured; runs on the driver, connects to Ray and disconnects.

    Raises:
        UserInputError: the input is wrong: no images, no labels, an output that is in use.
        CatdogError: training failed; `--resume` goes on from the last checkpoint.
    """
    started = time.monotonic()
    observer = observer or Observer()
    output = storage.to_uri(config.output)
    if not _claim_output(config, output):
        return _finished_result(output)
    source_limits, decode_limits = SourceLimits(), DecodeLimits()
    observer.phase("listing images")
    labelled = data.list_labelled(
        config.images, source_limits, validation=config.validation, test=config.test
    )
    observer.phase("starting Ray")
    with ray_quirks.connect(config.address, minimum_cpus=config.workers):
        shape = {"cpus": config.cpus_per_worker, "gpus": config.gpus_per_worker or 0}
        ray_quirks.wait_for_room(config.workers or 1, **shape, on_wait=observer.phase)
        cpus, gpus = ray_quirks.cluster_resources()
        use_gpu = gpus > 0 if config.gpus_per_worker is None else config.gpus_per_worker > 0
        shape["gpus"] = int(use_gpu)
        workers = config.workers or config.workers_of(ray_quirks.room(**shape))
        ray_quirks.wait_for_room(workers, **shape, on_wait=observer.phase)
        _write_config(config, output)  # nothing is left to say against the command
        observer.phase(f"decoding {labelled.entries.num_rows:,} images")
        images = data.decode_all(
            labelled, config.preprocessing, decode_limits, source_limits, actors=max(1, cpus)
        )
        _report_rejected(config, output, images)
        observer.phase(f"starting {workers} workers")
        on_workers = config.on_workers(workers)
        return _fit(
            on_workers, output, images, labelled.labels, workers, observer, started, use_gpu=use_gpu
        )


def _claim_output(config: TrainConfig, output: str) -> bool:
    """Whether there is something to do in `output`.

    Raises:
        UserInputError: it holds another run, or something else.
    """
    config_uri = storage.join(output, CONFIG_FILE)
    if storage.exists(config_uri):
        recorded = json.loads(storage.read_bytes(config_uri, 2**20))["recipe"]
        recorded["architecture"] = architectures.current_name(recorded["architecture"])
        current = json.loads(json.dumps(config.recipe()))
        if not config.resume:
            raise UserInputError(
                f"--output {config.output}: holds a run already; add --resume to go on with it, "
                "or name another folder"
            )
        changed = sorted(k for k in current | recorded if current.get(k) != recorded.get(k))
        if changed:
            flags = ", ".join(
                f"--{name.replace('_', '-')} was {recorded.get(name)!r}, is {current.get(name)!r}"
                for name in changed
            )
            raise UserInputError(f"--resume: the run in {config.output} was another one: {flags}")
        return not storage.exists(
            storage.join(output, folders.RUN_SUBFOLDER, folders.METADATA_FILE)
        )
    if storage.list_names(output):
        raise UserInputError(f"--output {config.output}: the folder is not empty; name another one")
    return True


def _write_config(config: TrainConfig, output: str) -> None:
    """Write the run's configuration, once there is something to train on; a resumed run has it."""
    config_uri = storage.join(output, CONFIG_FILE)
    if not storage.exists(config_uri):
        record = {"recipe": config.recipe(), "versions": versions()}
        storage.write_atomic(config_uri, (json.dumps(record, indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for run records."""
    packages = (
        "catdog-ray",
        "ray",
        "tensorflow",
        "keras",
        "openvino",
        "pillow",
        "pyarrow",
        "numpy",
    )
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _finished_result(output: str) -> TrainResult:
    folder = storage.join(output, folders.RUN_SUBFOLDER)
    metadata = folders.load(folder).metadata
    training = metadata.training
    return TrainResult(
        output=output,
        model=folder,
        fingerprint=metadata.fingerprint,
        best=dict(training["best"]),
        history=tuple(training["history"]),
        labels=metadata.labels,
        images=dict(training["images"]),
        seconds=0.0,
    )


def _report_rejected(config: TrainConfig, output: str, images: DecodedImages) -> None:
    total = len(images.train) + len(images.validation) + len(images.rejected)
    if images.rejected:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("uri", "error", "error_detail"))
        table.writerows(images.rejected)
        storage.write_atomic(storage.join(output, REJECTED_FILE), text.getvalue().encode())
    if len(images.rejected) > config.max_rejected * total:
        uri, error, detail = images.rejected[0]
        raise CatdogError(
            f"{len(images.rejected)} of {total} images were rejected, more than --max-rejected "
            f"{config.max_rejected}; the first is {uri}: {error}, {detail}"
        )
    if not len(images.train) or not len(images.validation):
        raise CatdogError("no decodable image is left to train on or to validate with")


def _fit(
    config: TrainConfig,
    output: str,
    images: DecodedImages,
    labels: tuple[str, ...],
    workers: int,
    observer: Observer,
    started: float,
    *,
    use_gpu: bool,
) -> TrainResult:
    tensorflow_quirks.prepare_environment()
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    # Not on a worker's node, with which it would go.
    board = ray.remote(**ray_quirks.beside_driver())(_Board).remote()
    filesystem, path = ray_quirks.arrow_filesystem(output)
    trainer = TensorflowTrainer(
        train_worker,
        train_loop_config={
            "config": config,
            "images": images,
            "labels": labels,
            "board": board,
            "use_gpu": use_gpu,
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_restarts),
        ),
    )
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def fit() -> None:
        try:
            outcome.put(trainer.fit())
        except Exception as error:
            outcome.put(error)

    thread = threading.Thread(target=fit, name="trainer", daemon=True)
    thread.start()
    watch = ray_quirks.NodeWatch(workers, cpus=config.cpus_per_worker, gpus=int(use_gpu))
    shown = 0
    while True:
        thread.join(timeout=0.5)
        watch.check()  # Ray Train waits for nodes without end
        state = ray.get(board.state.remote())
        for row in state.history[shown:]:
            observer.epoch(row, best=row is best_row(state.history, config.monitor))
        if len(state.history) > shown:
            shown = len(state.history)
            _write_metrics(output, state.history)
        if not thread.is_alive():
            break
        if state.progress is not None:
            observer.steps(*state.progress)
    result = outcome.get()
    if isinstance(result, Exception):
        raise CatdogError(f"training failed: {ray_quirks.root_cause(result)}") from result
    observer.phase("saving the model")
    history = tuple(state.history)
    best = best_row(history, config.monitor)
    with result.checkpoint.as_directory() as folder:
        files = {
            name: (Path(folder) / name).read_bytes()
            for name in (folders.KERAS_FILE, *folders.OPENVINO_FILES)
        }
        temperature = json.loads((Path(folder) / TEMPERATURE_FILE).read_text())
    _write_metrics(output, history)
    storage.write_atomic(storage.join(output, CURVES_FILE), _curves(history, best))
    counts = {
        "train": len(images.train),
        "validation": len(images.validation),
        "rejected": len(images.rejected),
    }
    seconds = time.monotonic() - started
    model_uri = storage.join(output, folders.RUN_SUBFOLDER)
    metadata = folders.save(
        model_uri,
        files,
        labels=labels,
        preprocessing=config.preprocessing,
        architecture=config.architecture,
        training={
            "recipe": config.recipe(),
            "workers": workers,
            "images": counts,
            "best": best,
            "temperature": temperature,
            "history": list(history),
            "seconds": round(seconds, 1),
            "versions": versions(),
        },
    )
    return TrainResult(
        output=output,
        model=model_uri,
        fingerprint=metadata.fingerprint,
        best=best,
        history=history,
        labels=labels,
        images=counts,
        seconds=seconds,
    )


def _write_metrics(output: str, history: Any) -> None:
    """Write the epochs until now, whole files each time: a resumed run has each epoch once."""
    text = io.StringIO()
    table = csv.DictWriter(text, METRICS_COLUMNS)
    table.writeheader()
    table.writerows(history)
    storage.write_atomic(storage.join(output, METRICS_FILE), text.getvalue().encode())
    storage.write_atomic(storage.join(output, TENSORBOARD_FILE), _events(history))


def _events(history: Any) -> bytes:
    """A TensorBoard event file; its scalars are the columns of `metrics.csv`."""
    from tensorboardX import SummaryWriter  # Ray's own dependency; needs no TensorFlow

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for row in history:
                for name in METRICS_COLUMNS[1:]:
                    writer.add_scalar(name, row[name], global_step=row["epoch"])
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _curves(history: Any, best: dict[str, float]) -> bytes:
    """Loss and accuracy over the epochs as a PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[name] for row in history], marker=".", label="training")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], marker=".", label="validation")
        axes.axvline(
            best["epoch"], color="grey", linestyle=":", label=f"best: epoch {best['epoch']}"
        )
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


@dataclass(frozen=True)
class _BoardState:
    progress: tuple[int, int, int, int, float, int] | None
    history: list[dict[str, float]]


class _Board:
    """An actor beside the driver where rank 0 writes how far it is."""

    def __init__(self) -> None:
        self._state = _BoardState(None, [])

    def write(
        self,
        progress: tuple[int, int, int, int, float, int] | None,
        history: list[dict[str, float]],
    ) -> None:
        """Replace the whole state: a restarted worker repeats epochs, each must stand once."""
        self._state = _BoardState(progress, history)

    def state(self) -> _BoardState:
        """What was written last."""
        return self._state
