"""Data-parallel training: Keras under TensorFlow's strategy on workers that Ray Train starts.

The flow: `train` (the driver) lists the images and has Ray Data decode them; `train_worker` runs on
every worker, reads its slice of each global batch from the object store, and steps under
`MultiWorkerMirroredStrategy`; rank 0 reports a checkpoint each epoch; the driver shows the progress
and writes the run's folder.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import importlib.metadata
import io
import json
import math
import queue
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro.conf

from catdog import models, ray_runtime, storage, tensorflow_runtime, training_data
from catdog.architectures import Architecture
from catdog.errors import CatdogError, UserInputError
from catdog.images import DecodeLimits, Preprocessing
from catdog.observer import Observer
from catdog.sources import SourceLimits
from catdog.tensorflow_runtime import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.training_data import Batch, DecodedImages

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
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


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, and how. The defaults are the seed's recipe.

    Attributes:
        images: folders with one subfolder per class, archives of such folders, or tables with a
            label column; local or S3.
        output: folder of the run; local or S3.
        architecture: the network.
        workers: data-parallel workers; by default one per GPU of the cluster, else one per CPU.
        epochs: how often to train for `steps_per_epoch` and validate.
        steps_per_epoch: global batches per epoch; by default one pass over the images. The seed's
            article says 2000.
        validation_steps: global batches per validation; by default every validation image once. The
            seed's article says 800.
        batch_size: images in a global batch, over all workers.
        learning_rate: of RMSprop.
        patience: stop after so many epochs without a better validation accuracy; by default never.
        validation: fraction of the images for validation, chosen by a fixed rule on their names.
        test: fraction of the images that training never sees, for `evaluate`.
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.
        resize: how an image becomes that size.
        seed: of the initial weights and of the order of the images.
        precision: of the arithmetic; `auto` takes bfloat16 where the CPU has it, float16 on GPUs.
        cpus_per_worker: logical CPUs of a worker; TensorFlow gets as many threads.
        gpus_per_worker: 0 or 1; by default 1 where the cluster has GPUs.
        max_rejected: the run fails if a larger fraction of the images cannot be decoded.
        max_restarts: how often the worker group is started again after a worker died.
        resume: go on with an interrupted run in `output`.
        address: of a Ray cluster; by default `RAY_ADDRESS`, or an embedded local cluster.
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    output: str
    architecture: Architecture = "seed"
    workers: int | None = None
    epochs: int = 30
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-4
    patience: int | None = None
    validation: float = 0.1
    test: float = 0.0
    height: int = 150
    width: int = 150
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    seed: int = 0
    precision: Precision = "auto"
    cpus_per_worker: int = 1
    gpus_per_worker: Literal[0, 1] | None = None
    max_rejected: float = 0.1
    max_restarts: int = 3
    resume: bool = False
    address: str | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise UserInputError("IMAGES: name at least one folder, archive, list or table")
        for name in ("epochs", "batch_size", "height", "width", "cpus_per_worker"):
            if getattr(self, name) < 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("workers", "steps_per_epoch", "validation_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be at least 1")
        if self.learning_rate <= 0:
            raise UserInputError("--learning-rate must be above 0")
        if (
            not 0 < self.validation < 1
            or not 0 <= self.test < 1
            or self.validation + self.test >= 1
        ):
            raise UserInputError(
                "--validation and --test are fractions that leave some to train on"
            )
        if not 0 <= self.max_rejected <= 1:
            raise UserInputError("--max-rejected must be a fraction from 0 to 1")

    @property
    def preprocessing(self) -> Preprocessing:
        """How bytes become the network's pixels."""
        return Preprocessing(height=self.height, width=self.width, resize=self.resize)

    def recipe(self) -> dict[str, Any]:
        """What decides the result: a resumed run must have the same."""
        neutral = {"resume", "address", "max_restarts", "output", "epochs", "patience"}
        content = dataclasses.asdict(self)
        return {name: value for name, value in content.items() if name not in neutral}


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
    labelled = training_data.list_labelled(
        config.images, source_limits, validation=config.validation, test=config.test
    )
    observer.phase("starting Ray")
    with ray_runtime.connect(config.address, minimum_cpus=config.workers):
        cpus, gpus = ray_runtime.cluster_resources()
        use_gpu = gpus > 0 if config.gpus_per_worker is None else config.gpus_per_worker > 0
        workers = config.workers or (gpus if use_gpu else max(1, cpus // config.cpus_per_worker))
        _check_resources(workers, config, cpus, gpus, use_gpu=use_gpu)
        observer.phase(f"decoding {labelled.entries.num_rows:,} images")
        images = training_data.decode_all(
            labelled, config.preprocessing, decode_limits, source_limits, actors=max(1, cpus)
        )
        _report_rejected(config, output, images)
        observer.phase(f"starting {workers} workers")
        return _fit(
            config, output, images, labelled.labels, workers, observer, started, use_gpu=use_gpu
        )


def _claim_output(config: TrainConfig, output: str) -> bool:
    """Whether there is something to do in `output`; writes the run's configuration."""
    config_uri = storage.join(output, CONFIG_FILE)
    if storage.exists(config_uri):
        recorded = json.loads(storage.read_bytes(config_uri, 2**20))["recipe"]
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
        return not storage.exists(storage.join(output, models.RUN_SUBFOLDER, models.METADATA_FILE))
    if storage.list_names(output):
        raise UserInputError(f"--output {config.output}: the folder is not empty")
    record = {"recipe": config.recipe(), "versions": versions()}
    storage.write_atomic(config_uri, (json.dumps(record, indent=2) + "\n").encode())
    return True


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
    folder = storage.join(output, models.RUN_SUBFOLDER)
    metadata = models.load(folder).metadata
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


def _check_resources(
    workers: int, config: TrainConfig, cpus: int, gpus: int, *, use_gpu: bool
) -> None:
    """Refuse at once what Ray would wait for without end."""
    if workers * config.cpus_per_worker > cpus:
        raise UserInputError(
            f"--workers {workers}: wants {workers * config.cpus_per_worker} CPUs "
            f"(--cpus-per-worker {config.cpus_per_worker}), the cluster has {cpus}"
        )
    if use_gpu and workers > gpus:
        raise UserInputError(f"--workers {workers}: wants {workers} GPUs, the cluster has {gpus}")
    if workers > config.batch_size:
        raise UserInputError(
            f"--workers {workers}: more than --batch-size {config.batch_size} images to share"
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
    tensorflow_runtime.prepare_environment()
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    board = ray.remote(num_cpus=0)(_Board).remote()
    filesystem, path = ray_runtime.arrow_filesystem(output)
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
    shown = 0
    while True:
        thread.join(timeout=0.5)
        state = ray.get(board.state.remote())
        for row in state.history[shown:]:
            observer.epoch(row, best=row["epoch"] == best_row(state.history)["epoch"])
        if len(state.history) > shown:
            shown = len(state.history)
            storage.write_atomic(storage.join(output, METRICS_FILE), _csv(state.history))
        if not thread.is_alive():
            break
        if state.progress is not None:
            observer.steps(*state.progress)
    result = outcome.get()
    if isinstance(result, Exception):
        raise CatdogError(f"training failed: {ray_runtime.root_cause(result)}") from result
    observer.phase("saving the model")
    history = tuple(state.history)
    best = best_row(history)
    with result.checkpoint.as_directory() as folder:
        files = {
            name: (Path(folder) / name).read_bytes()
            for name in (models.KERAS_FILE, *models.OPENVINO_FILES)
        }
    storage.write_atomic(storage.join(output, METRICS_FILE), _csv(history))
    storage.write_atomic(storage.join(output, CURVES_FILE), _curves(history))
    counts = {
        "train": len(images.train),
        "validation": len(images.validation),
        "rejected": len(images.rejected),
    }
    seconds = time.monotonic() - started
    model_uri = storage.join(output, models.RUN_SUBFOLDER)
    metadata = models.save(
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


def best_row(history: Any) -> dict[str, float]:
    """The epoch with the highest validation accuracy; of equals the one with the lower loss."""
    row: dict[str, float] = max(history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    return row


def _csv(history: Any) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, METRICS_COLUMNS)
    table.writeheader()
    table.writerows(history)
    return text.getvalue().encode()


def _curves(history: Any) -> bytes:
    """Loss and accuracy over the epochs as a PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    best = best_row(history)
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
    progress: tuple[int, int, int, int, float] | None
    history: list[dict[str, float]]


class _Board:
    """An actor beside the driver where rank 0 writes how far it is."""

    def __init__(self) -> None:
        self._state = _BoardState(None, [])

    def write(
        self, progress: tuple[int, int, int, int, float] | None, history: list[dict[str, float]]
    ) -> None:
        """Replace the whole state: a restarted worker repeats epochs, each must stand once."""
        self._state = _BoardState(progress, history)

    def state(self) -> _BoardState:
        """What was written last."""
        return self._state


def train_worker(loop: dict[str, Any]) -> None:
    """Training loop of one worker; Ray Train runs it on all of them.

    Args:
        loop: `config`, `images`, `labels`, `board`, `use_gpu` as `_fit` passes them.
    """
    import ray.train

    config: TrainConfig = loop["config"]
    images: DecodedImages = loop["images"]
    context = ray.train.get_context()
    worker, workers = context.get_world_rank(), context.get_world_size()
    session = _Session(config, len(loop["labels"]), use_gpu=loop["use_gpu"])
    history: list[dict[str, float]] = []
    best_weights = session.weights()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            history, best_weights = session.restore(Path(folder))

    steps = config.steps_per_epoch or math.ceil(len(images.train) / config.batch_size)
    cached_blocks = _cached_blocks(images)
    reader = training_data.PixelReader(images, cached_blocks)
    validation_reader = training_data.PixelReader(images, cached_blocks)
    window = _WINDOW_BYTES // int(np.prod(images.shape))
    stream = training_data.training_batches(
        training_data.shuffled_passes(images, config.seed, window),
        config.batch_size,
        worker,
        workers,
    )
    for _ in range(len(history) * steps):
        next(stream)  # a resumed run goes on where the interrupted one was in the order of images

    def publish(epoch: int, step: int, images_per_s: float) -> None:
        if worker == 0:
            progress = (epoch, config.epochs, step, steps, images_per_s)
            loop["board"].write.remote(progress, history)

    training = _read_ahead(reader, images, stream, steps * (config.epochs - len(history)))
    for epoch in range(len(history) + 1, config.epochs + 1):
        if _exhausted(history, config.patience):
            break
        started = time.monotonic()
        train_loss, train_accuracy = session.run(
            session.train_step,
            (next(training) for _ in range(steps)),
            lambda step, rate, epoch=epoch: publish(epoch, step, rate),
        )
        train_seconds = time.monotonic() - started
        batches = training_data.validation_batches(
            images.validation, config.batch_size, config.validation_steps, worker, workers
        )
        val_loss, val_accuracy = session.run(
            session.validation_step, _read_ahead(validation_reader, images, batches, None), None
        )
        if not math.isfinite(train_loss):
            raise CatdogError(
                f"the loss of epoch {epoch} is {train_loss}; try a lower --learning-rate"
            )
        row = {
            "epoch": epoch,
            "loss": train_loss,
            "accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": config.learning_rate,
            "images_per_s": round(steps * config.batch_size / train_seconds, 1),
            "seconds": round(time.monotonic() - started, 2),
        }
        history.append(row)
        if best_row(history) is row:
            best_weights = session.weights()
        publish(epoch, steps, row["images_per_s"])
        _report(row, worker, functools.partial(session.save, history=history, best=best_weights))
    _report(
        best_row(history),
        worker,
        lambda folder: _write_files(folder, session.export(best_weights)),
    )


_WINDOW_BYTES = 2 * 2**30  # images that are shuffled together; what a node holds at a time


def _cached_blocks(images: DecodedImages) -> int:
    block_bytes = len(images.block_of) / len(images.blocks) * float(np.prod(images.shape))
    return max(4, int(1.5 * _WINDOW_BYTES / block_bytes))


def _exhausted(history: list[dict[str, float]], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    return history[-1]["epoch"] - best_row(history)["epoch"] >= patience


def _report(metrics: dict[str, float], worker: int, write: Any) -> None:
    """Report an epoch to Ray Train, rank 0 with a checkpoint. Every rank must call it."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if worker == 0:
            write(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _read_ahead(
    reader: training_data.PixelReader,
    images: DecodedImages,
    batches: Iterator[Batch],
    count: int | None,
) -> Iterator[tuple[Any, Any, Any, int]]:
    """Batches as arrays, the next ones read by a thread while the current one is computed.

    Yields:
        pixels uint8 (slice, H, W, 3), classes int32 (slice,), weights float32 (slice,), images in
        the global batch.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=4)

    def read() -> None:
        try:
            for number, batch in enumerate(batches):
                if count is not None and number == count:
                    break
                pixels = reader.read(batch.numbers)
                ready.put((pixels, images.classes[batch.numbers], batch.weights, batch.total))
            ready.put(None)
        except Exception as error:
            ready.put(error)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


class _Session:
    """The network, its optimizer and its compiled steps on one worker.

    `model.fit` fails under MultiWorkerMirroredStrategy on Keras 3 (PerReplica values in its
    symbolic build, keras issue 20585), so the step is our own: a gradient tape under `strategy.run`.
    Each worker's loss is the sum over its slice divided by the images of the GLOBAL batch; the
    optimizer sums the workers' gradients, which makes them exactly those of one large batch.
    """

    def __init__(self, config: TrainConfig, classes: int, *, use_gpu: bool) -> None:
        keras = tensorflow_runtime.import_keras(config.cpus_per_worker)
        import tensorflow as tf

        self._tf, self._config, self._classes = tf, config, classes
        keras.utils.set_random_seed(config.seed)
        precision = tensorflow_runtime.resolve_precision(config.precision, gpu=use_gpu)
        self._strategy = tensorflow_runtime.multi_worker_strategy()
        with self._strategy.scope():
            self._model = self._build(tensorflow_runtime.dtype_policy(precision))
            optimizer = keras.optimizers.RMSprop(config.learning_rate)
            if precision == "float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            # Outside a strategy's scope, inside tf.function, variables cannot be created.
            optimizer.build(self._model.trainable_variables)
        self._optimizer = optimizer
        self.train_step = tf.function(self._train_step, reduce_retracing=True)
        self.validation_step = tf.function(self._validation_step, reduce_retracing=True)

    def _build(self, policy: str) -> Any:
        from catdog import architectures

        config = self._config
        return architectures.build(config.architecture, config.preprocessing, self._classes, policy)

    def _losses(self, scores: Any, classes: Any) -> Any:
        """Loss and correctness of each image, float32 (n,)."""
        import keras

        tf = self._tf
        if self._classes == 2:
            target = tf.cast(classes, tf.float32)[:, None]
            loss = keras.losses.binary_crossentropy(target, scores)
            predicted = tf.cast(scores[:, 0] > 0.5, tf.int32)  # as Keras' binary accuracy
        else:
            loss = keras.losses.sparse_categorical_crossentropy(classes, scores)
            predicted = tf.argmax(scores, axis=1, output_type=tf.int32)
        return loss, tf.cast(predicted == classes, tf.float32)

    def _train_step(self, pixels: Any, classes: Any, weights: Any, total: Any) -> Any:
        tf = self._tf

        def step(pixels: Any, classes: Any, weights: Any, total: Any) -> Any:
            with tf.GradientTape() as tape:
                scores = self._model(pixels, training=True)
                loss, correct = self._losses(scores, classes)
                share = tf.reduce_sum(loss * weights) / total
                if self._model.losses:
                    regularization = tf.add_n(self._model.losses)
                    share += regularization / self._strategy.num_replicas_in_sync
                scaled = self._optimizer.scale_loss(share)
            gradients = tape.gradient(scaled, self._model.trainable_variables)
            self._optimizer.apply(gradients, self._model.trainable_variables)
            return tf.stack([tf.reduce_sum(loss * weights), tf.reduce_sum(correct * weights)])

        return self._strategy.run(step, args=(pixels, classes, weights, total))

    def _validation_step(self, pixels: Any, classes: Any, weights: Any, total: Any) -> Any:
        del total
        tf = self._tf

        def step(pixels: Any, classes: Any, weights: Any) -> Any:
            loss, correct = self._losses(self._model(pixels, training=False), classes)
            return tf.stack([tf.reduce_sum(loss * weights), tf.reduce_sum(correct * weights)])

        return self._strategy.run(step, args=(pixels, classes, weights))

    def run(self, step: Any, batches: Iterator[Any], publish: Any) -> tuple[float, float]:
        """Run `step` over the batches; mean loss and accuracy over all workers' images."""
        tf = self._tf
        sums = np.zeros(2)
        images = 0
        started = last = time.monotonic()
        for number, (pixels, classes, weights, total) in enumerate(batches, start=1):
            sums += step(
                tf.constant(pixels),
                tf.constant(classes),
                tf.constant(weights),
                tf.constant(total, tf.float32),
            ).numpy()
            images += total
            if publish is not None and (now := time.monotonic()) - last > 0.5:
                last = now
                publish(number, images / (now - started))
        loss, correct = self._sum_over_workers(sums) / images
        return float(loss), float(correct)

    def _sum_over_workers(self, values: Any) -> Any:
        tf = self._tf

        def replica(value: Any) -> Any:
            # The identity gives the value a device, which the collective asks for.
            return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(value))

        reduce = tf.function(lambda value: self._strategy.run(replica, args=(value,)))
        return reduce(tf.constant(values, tf.float32)).numpy()

    def weights(self) -> list[Any]:
        """The network's weights, float32 arrays in Keras' order."""
        weights: list[Any] = self._model.get_weights()
        return weights

    def save(self, folder: Path, *, history: list[dict[str, float]], best: list[Any]) -> None:
        """Write what a restarted worker needs, as plain arrays: nothing in it can run code."""
        optimizer = [np.asarray(variable) for variable in self._optimizer.variables]
        arrays = {
            f"{kind}_{number:04d}": array
            for kind, group in (
                ("weight", self.weights()),
                ("optimizer", optimizer),
                ("best", best),
            )
            for number, array in enumerate(group)
        }
        np.savez(folder / "state.npz", **arrays)
        (folder / "history.json").write_text(json.dumps(history))

    def restore(self, folder: Path) -> tuple[list[dict[str, float]], list[Any]]:
        """Read what `save` wrote; returns the history and the best epoch's weights."""
        history = json.loads((folder / "history.json").read_text())
        with np.load(folder / "state.npz", allow_pickle=False) as arrays:
            groups = {
                kind: [arrays[name] for name in sorted(arrays.files) if name.startswith(kind)]
                for kind in ("weight", "optimizer", "best")
            }
        self._model.set_weights(groups["weight"])
        for variable, value in zip(self._optimizer.variables, groups["optimizer"], strict=True):
            variable.assign(value)
        return history, groups["best"]

    def export(self, weights: list[Any]) -> dict[str, bytes]:
        """The model folder's files, in float32 whatever the precision of the training was."""
        model = self._build("float32")
        model.set_weights(weights)
        return models.export(model)
