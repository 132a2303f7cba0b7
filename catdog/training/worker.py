"""What runs on each training worker: the loop over epochs, and the step.

`train_worker` reads the worker's slice of each global batch from the object store; the gradients are
summed over the workers, through shared memory on one node and by TensorFlow's collectives beyond;
rank 0 reports a checkpoint each epoch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import json
import math
import queue
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import storage
from catdog.errors import CatdogError
from catdog.model import architectures, folders
from catdog.runtime import all_reduce, tensorflow_quirks
from catdog.training import data
from catdog.training.config import best_row, learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from catdog.training.config import Recipe, TrainConfig
    from catdog.training.data import Batch, DecodedImages


TEMPERATURE_FILE = "temperature.json"
_SMALLEST_CAPACITY = 4096  # of the sums that are not gradients: losses, statistics
STEP_TIMEOUT_S = 600.0  # longer than workers wait for each other, which says more
_AVERAGE_STEPS = 8  # between two updates of the average weights: each costs a copy of all of them


def train_worker(loop: dict[str, Any]) -> None:
    """Training loop of one worker; Ray Train runs it on all of them.

    Args:
        loop: `config`, `images`, `labels`, `board`, `use_gpu` as `training._fit` passes them.
    """
    import ray.train

    config: TrainConfig = loop["config"]
    images: DecodedImages = loop["images"]
    recipe = config.hyperparameters
    context = ray.train.get_context()
    worker, workers = context.get_world_rank(), context.get_world_size()
    session = _Session(
        config,
        images.classes[images.train],
        len(loop["labels"]),
        worker=worker,
        workers=workers,
        one_node=context.get_local_world_size() == workers,
        use_gpu=loop["use_gpu"],
    )
    history: list[dict[str, float]] = []
    best_weights = session.weights()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            history, best_weights = session.restore(Path(folder))

    steps = config.steps_per_epoch or math.ceil(len(images.train) / recipe.batch_size)
    cached_blocks = _cached_blocks(images)
    reader = data.PixelReader(images, cached_blocks)
    validation_reader = data.PixelReader(images, cached_blocks)
    window = _WINDOW_BYTES // int(np.prod(images.shape))
    stream = data.training_batches(
        data.shuffled_passes(images, config.seed, window),
        recipe.batch_size,
        worker,
        workers,
    )
    for _ in range(len(history) * steps):
        next(stream)  # a resumed run goes on where the interrupted one was in the order of images

    def validation() -> Iterator[Any]:
        batches = data.validation_batches(
            images.validation, recipe.batch_size, config.validation_steps, worker, workers
        )
        return _read_ahead(validation_reader, images, batches, None)

    def publish(epoch: int, step: int, images_per_s: float) -> None:
        if worker == 0:
            progress = (epoch, recipe.epochs, step, steps, images_per_s, workers)
            loop["board"].write.remote(progress, history)

    training = _read_ahead(
        reader,
        images,
        stream,
        steps * (recipe.epochs - len(history)),
        lambda batch: batch.uniforms(config.seed, recipe.batch_size, session.uniforms),
    )
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        if _exhausted(history, config):
            break
        started = time.monotonic()
        session.begin(epoch)
        train_loss, train_accuracy = session.run(
            session.train_step,
            _scheduled(session, itertools.islice(training, steps), epoch, steps),
            lambda step, rate, epoch=epoch: publish(epoch, step, rate),
        )
        train_seconds = time.monotonic() - started
        with session.averaged():
            val_loss, val_accuracy = session.run(session.validation_step, validation(), None)
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
                "learning_rate": session.learning_rate,
                "images_per_s": round(steps * recipe.batch_size / train_seconds, 1),
                "seconds": round(time.monotonic() - started, 2),
            }
            history.append(row)
            if best_row(history, config.monitor) is row:
                best_weights = session.weights()
        publish(epoch, steps, row["images_per_s"])
        _report(row, worker, functools.partial(session.save, history=history, best=best_weights))
    temperature = 1.0
    if recipe.calibration == "temperature":
        best_weights, temperature = session.calibrated(best_weights, validation())

    def write_model(folder: Path) -> None:
        for name, content in session.export(best_weights).items():
            (folder / name).write_bytes(content)
        (folder / TEMPERATURE_FILE).write_text(json.dumps(temperature))

    _report(best_row(history, config.monitor), worker, write_model)


def _scheduled(session: _Session, batches: Iterator[Any], epoch: int, steps: int) -> Iterator[Any]:
    """The batches of an epoch; sets the learning rate before each, averages weights after some."""
    recipe = session.recipe
    for number, batch in enumerate(batches, start=(epoch - 1) * steps):
        session.learning_rate = learning_rate(recipe, number, steps)
        yield batch
        if (number + 1) % _AVERAGE_STEPS == 0:
            session.average(number + 1)


_WINDOW_BYTES = 2 * 2**30  # images that are shuffled together; what a node holds at a time


def _cached_blocks(images: DecodedImages) -> int:
    block_bytes = len(images.block_of) / len(images.blocks) * float(np.prod(images.shape))
    return max(4, int(1.5 * _WINDOW_BYTES / block_bytes))


def _exhausted(history: list[dict[str, float]], config: TrainConfig) -> bool:
    if config.patience is None or not history:
        return False
    return history[-1]["epoch"] - best_row(history, config.monitor)["epoch"] >= config.patience


@contextlib.contextmanager
def _step_limit() -> Iterator[Callable[[], None]]:
    """Within it this process ends itself where a step, or the wait for its images, has no end.

    The process of a worker that is stuck answers Ray all the same; once it has ended, Ray Train starts
    its group again. It leaves the stack of each of its threads in the worker's log.

    Yields:
        what to call at the beginning of each further step.
    """

    def begin() -> None:
        faulthandler.dump_traceback_later(STEP_TIMEOUT_S, exit=True, file=2)

    begin()
    try:
        yield begin
    finally:
        faulthandler.cancel_dump_traceback_later()


def _report(metrics: dict[str, float], worker: int, write: Any) -> None:
    """Report an epoch to Ray Train, rank 0 with a checkpoint. Every rank must call it."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if worker == 0:
            write(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _read_ahead(
    reader: data.PixelReader,
    images: DecodedImages,
    batches: Iterator[Batch],
    count: int | None,
    randomness: Callable[[Batch], NDArray[np.float32]] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Batches as arrays, the next ones read by a thread while the current one is computed.

    Yields:
        pixels uint8 (slice, H, W, 3), classes int32 (slice,), weights float32 (slice,), images in
        the global batch, random numbers float32 (slice, k) where `randomness` gives them.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=4)

    def read() -> None:
        try:
            for number, batch in enumerate(batches):
                if count is not None and number == count:
                    break
                pixels, classes = reader.read(batch.numbers), images.classes[batch.numbers]
                random = (randomness(batch),) if randomness else ()
                ready.put((pixels, classes, batch.weights, np.float32(batch.total), *random))
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
    Each worker's loss is the sum over its slice divided by the images of the GLOBAL batch; summed
    over the workers, the gradients are exactly those of one large batch.

    Attributes:
        recipe: the hyperparameters.
        uniforms: random numbers that the training step wants for each image.
    """

    def __init__(
        self,
        config: TrainConfig,
        train_classes: NDArray[np.int32],
        classes: int,
        *,
        worker: int,
        workers: int,
        one_node: bool,
        use_gpu: bool,
    ) -> None:
        keras = tensorflow_quirks.import_keras(config.cpus_per_worker)
        import tensorflow as tf

        from catdog.training import augmentation

        self.recipe = recipe = config.hyperparameters
        self._tf, self._config, self._classes = tf, config, classes
        self._class_weights = np.ones(classes, np.float32)
        if config.class_weights == "balanced":
            counts = np.bincount(train_classes, minlength=classes)
            self._class_weights = (len(train_classes) / classes / counts).astype(np.float32)
        keras.utils.set_random_seed(config.seed)
        precision = tensorflow_quirks.resolve_precision(config.precision, gpu=use_gpu)
        own_sums = workers > 1 and one_node and not use_gpu and all_reduce.possible()
        self._strategy = (
            tensorflow_quirks.multi_worker_strategy()
            if workers > 1 and not own_sums
            else tf.distribute.get_strategy()
        )
        with self._strategy.scope():
            self._model = self._build(
                tensorflow_quirks.dtype_policy(precision),
                _keras_weights(config.initial_weights),
                any_size=recipe.augmented_scale < 1,
            )
            self._augment = (
                augmentation.Augmentation(
                    scale=recipe.augmented_scale, compiled=tensorflow_quirks.compiled
                )
                if recipe.augmentation != "none"
                else None
            )
            optimizer = _optimizer(keras, recipe)
            tensorflow_quirks.expect_summed_gradients(optimizer)
            if precision == "float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            # Outside a strategy's scope, inside tf.function, variables cannot be created.
            optimizer.build(self._model.trainable_variables)
        self._workers = workers
        self._sum_over_workers: tensorflow_quirks.SumOverWorkers = (
            self._own_sums(worker) if own_sums else tensorflow_quirks.sum_by_collectives
        )
        tensorflow_quirks.fuse_batch_norm(self._model, workers, self._sum_over_workers)
        tensorflow_quirks.pool_before_relu(self._model)
        self.uniforms = augmentation.UNIFORMS if self._augment else 0
        self._optimizer, self._loss_is_scaled = optimizer, precision == "float16"
        self._learning_rate = recipe.learning_rate
        self._average: list[Any] | None = None
        self.train_step = tf.function(self._train_step, reduce_retracing=True)
        self.validation_step = tf.function(self._validation_step, reduce_retracing=True)

    def _own_sums(self, worker: int) -> tensorflow_quirks.SumOverWorkers:
        import ray.train.collective

        return tensorflow_quirks.sum_by(
            all_reduce.SharedMemoryAllReduce(
                worker,
                self._workers,
                capacity=max(
                    sum(all_reduce.rounded_up(math.prod(w.shape)) for w in self._model.weights),
                    _SMALLEST_CAPACITY,
                ),
                broadcast=ray.train.collective.broadcast_from_rank_zero,
                timeout_s=tensorflow_quirks.COLLECTIVE_TIMEOUT_S,
            )
        )

    def _build(self, policy: str, weights: str | None = None, *, any_size: bool = False) -> Any:
        config = self._config
        return architectures.build(
            config.architecture,
            config.preprocessing,
            self._classes,
            policy,
            weights=weights,
            any_size=any_size,
        )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if value != self._learning_rate:
            self._optimizer.learning_rate = self._learning_rate = value

    def begin(self, epoch: int) -> None:
        """Freeze or free the layers that came with weights, as this epoch wants it."""
        frozen = epoch <= self.recipe.frozen_epochs
        for layer in self._model.layers:
            if hasattr(layer, "layers") and layer.trainable is frozen:
                layer.trainable = not frozen
                # What is trainable is fixed when the step is compiled.
                self.train_step = self._tf.function(self._train_step, reduce_retracing=True)

    def _losses(self, scores: Any, classes: Any, smoothing: float = 0.0) -> Any:
        """Loss and correctness of each image, float32 (n,)."""
        import keras

        tf = self._tf
        if self._classes == 2:
            target = tf.cast(classes, tf.float32)[:, None]
            loss = keras.losses.binary_crossentropy(target, scores, label_smoothing=smoothing)
            predicted = tf.cast(scores[:, 0] > 0.5, tf.int32)  # as Keras' binary accuracy
        else:
            target = tf.one_hot(classes, self._classes)
            loss = keras.losses.categorical_crossentropy(target, scores, label_smoothing=smoothing)
            predicted = tf.argmax(scores, axis=1, output_type=tf.int32)
        return loss, tf.cast(predicted == classes, tf.float32)

    def _train_step(self, *batch: Any) -> Any:
        tf = self._tf

        def step(pixels: Any, classes: Any, weights: Any, total: Any, uniforms: Any) -> Any:
            if self._augment is not None:
                pixels = self._augment((pixels, uniforms))
            variables = self._model.trainable_variables
            with tf.GradientTape() as tape:
                scores = self._model(pixels, training=True)
                loss, correct = self._losses(scores, classes, self.recipe.label_smoothing)
                loss *= tf.gather(self._class_weights, classes)
                share = tf.reduce_sum(loss * weights) / total
                if self._model.losses:
                    regularization = tf.add_n(self._model.losses)
                    share += regularization / self._workers
                scaled = self._optimizer.scale_loss(share)
            # The next sum is the next step's, which begins when the weights are up to date.
            gradients = self._sum_over_workers(tape.gradient(scaled, variables), passing=True)
            if self.recipe.gradient_clip:
                scale = self._optimizer.dynamic_scale if self._loss_is_scaled else 1.0
                gradients, _ = tf.clip_by_global_norm(gradients, self.recipe.gradient_clip * scale)
            self._update(gradients, variables)
            return tf.stack([tf.reduce_sum(loss * weights), tf.reduce_sum(correct * weights)])

        return self._strategy.run(step, args=batch)

    def _update(self, gradients: list[Any], variables: list[Any]) -> None:
        def update(gradients: list[Any]) -> None:
            self._optimizer.apply(gradients, variables)

        # Keras' dozen operations each go through all weights: 17 ms for `article`, 6 ms as one.
        tensorflow_quirks.compiled(update, assigns=True)(gradients)

    def _validation_step(self, pixels: Any, classes: Any, weights: Any, total: Any) -> Any:
        del total
        tf = self._tf

        def step(pixels: Any, classes: Any, weights: Any) -> Any:
            loss, correct = self._losses(self._model(pixels, training=False), classes)
            return tf.stack([tf.reduce_sum(loss * weights), tf.reduce_sum(correct * weights)])

        return self._strategy.run(step, args=(pixels, classes, weights))

    def run(self, step: Any, batches: Iterator[Any], publish: Any) -> tuple[float, float]:
        """Run `step` over the batches; mean loss and accuracy over all workers' images."""
        sums = np.zeros(2)
        images = 0
        started = last = time.monotonic()
        with _step_limit() as begin_step:
            for number, batch in enumerate(batches, start=1):
                sums += step(*map(self._tf.constant, batch)).numpy()
                images += int(batch[3])
                begin_step()
                if publish is not None and (now := time.monotonic()) - last > 0.5:
                    last = now
                    publish(number, images / (now - started))
        loss, correct = self._global_sums(sums) / images
        return float(loss), float(correct)

    def _global_sums(self, values: Any) -> Any:
        tf = self._tf
        reduce = tf.function(
            lambda value: self._strategy.run(
                lambda replica: self._sum_over_workers([replica])[0], args=(value,)
            )
        )
        return reduce(tf.constant(values, tf.float32)).numpy()

    def weights(self) -> list[Any]:
        """The network's weights, float32 arrays in Keras' order."""
        weights: list[Any] = self._model.get_weights()
        return weights

    def average(self, step: int) -> None:
        """Bring the average weights, moving statistics among them, up to this step, from 1."""
        if not self.recipe.weight_average:
            return
        weights = self.weights()
        if self._average is None:
            self._average = weights
        # The first weights are worth little: the average begins short and grows to its length.
        decay = min(self.recipe.weight_average, (1 + step) / (10 + step)) ** _AVERAGE_STEPS
        self._average = [
            decay * average + (1 - decay) * weight
            for average, weight in zip(self._average, weights, strict=True)
        ]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the network has the average weights, where there are any."""
        if self._average is None:
            yield
            return
        weights = self.weights()
        self._model.set_weights(self._average)
        yield
        self._model.set_weights(weights)

    def calibrated(self, weights: list[Any], batches: Iterator[Any]) -> tuple[list[Any], float]:
        """Weights whose scores are scaled by one temperature, and that temperature.

        It is the one under which the labels of `batches` are most likely (Guo et al. 2017, "On
        Calibration of Modern Neural Networks"). It divides the last layer's weights, so nothing
        downstream knows of it, and no label changes.
        """
        tf = self._tf
        self._model.set_weights(weights)
        temperatures = np.exp(np.linspace(np.log(0.2), np.log(5.0), 121)).astype(np.float32)
        losses = np.zeros(len(temperatures))
        predict = tf.function(lambda pixels: self._model(pixels, training=False))
        for pixels, classes, image_weights, *_ in batches:
            scores = self._strategy.run(predict, args=(tf.constant(pixels),)).numpy()
            losses += image_weights @ _scaled_losses(scores, classes, temperatures)
        temperature = float(temperatures[np.argmin(self._global_sums(losses))])
        last = {id(variable) for variable in self._model.get_layer("scores").weights}
        return [
            weight / np.float32(temperature) if id(variable) in last else weight
            for variable, weight in zip(self._model.weights, weights, strict=True)
        ], temperature

    def save(self, folder: Path, *, history: list[dict[str, float]], best: list[Any]) -> None:
        """Write what a restarted worker needs, as plain arrays: nothing in it can run code."""
        groups = {
            "weight": [np.asarray(variable) for variable in self._model.variables],
            "optimizer": [np.asarray(variable) for variable in self._optimizer.variables],
            "average": self._average or [],
            "best": best,
        }
        arrays = {
            f"{kind}_{number:04d}": array
            for kind, group in groups.items()
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
                for kind in ("weight", "optimizer", "average", "best")
            }
        for owner, kind in ((self._model, "weight"), (self._optimizer, "optimizer")):
            for variable, value in zip(owner.variables, groups[kind], strict=True):
                variable.assign(value)
        self._average = groups["average"] or None
        self._learning_rate = -1.0  # the optimizer has the interrupted run's
        return history, groups["best"]

    def export(self, weights: list[Any]) -> dict[str, bytes]:
        """The model folder's files, in float32 whatever the precision of the training was."""
        model = self._build("float32")
        model.set_weights(weights)
        return folders.export(model)


def _optimizer(keras: Any, recipe: Recipe) -> Any:
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(recipe.learning_rate)
    if recipe.optimizer == "sgd":
        decay = recipe.weight_decay or None
        return keras.optimizers.SGD(
            recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=decay
        )
    optimizer = keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay)
    # Scales and shifts are few and must be free to grow.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _scaled_losses(
    scores: NDArray[np.float32], classes: NDArray[np.int32], temperatures: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Cross-entropy of each image at each temperature, (n, temperatures)."""
    if scores.shape[1] == 1:
        scores = np.concatenate([1 - scores, scores], axis=1)
    logits = np.log(np.clip(scores, 1e-7, 1.0)).astype(np.float64)
    scaled = logits[:, :, None] / temperatures
    losses: NDArray[np.float64] = np.log(np.exp(scaled).sum(axis=1))
    losses -= scaled[np.arange(len(classes)), classes]
    return losses


def _keras_weights(weights: str | None) -> str | None:
    """What Keras takes: None, `imagenet`, or a file on this node."""
    if weights in (None, "imagenet"):
        return weights
    uri = storage.to_uri(weights)
    if uri.startswith("file://"):
        return storage.local_path(uri)
    with tempfile.NamedTemporaryFile(suffix=Path(uri).name, delete=False) as file:
        file.write(storage.read_bytes(uri, _MAX_WEIGHTS_BYTES))
    return file.name


_MAX_WEIGHTS_BYTES = 8 * 2**30
