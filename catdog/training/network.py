"""The network on one worker: how it is built, its loss, and its sums over all workers."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import storage
from catdog.errors import naming_full_disk
from catdog.model import MULTI_LABEL_THRESHOLD, architectures, folders
from catdog.runtime import all_reduce, tensorflow_quirks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from catdog.training.config import Recipe, TrainConfig

STEP_TIMEOUT_S = 600.0  # longer than workers wait for each other, which says more
_SMALLEST_CAPACITY = 4096  # of the sums that are not gradients: losses, statistics
_MAX_WEIGHTS_BYTES = 8 * 2**30


class Network:
    """The network, its optimizer and its changes of images, with the sums over all workers.

    Args:
        config: of the run.
        classes: how many there are.
        worker: number of this one, from 0.
        workers: how many there are.
        one_node: whether all of them share this node's memory.
        use_gpu: whether each has a GPU.

    Attributes:
        model: the Keras model that is trained: from pixels to scores; from features to scores where
            `config` trains a head only.
        trunk: what makes features of pixels then; else None.
        optimizer: built for all of its weights.
        augment: changes pixels; None if the recipe has no augmentation.
        uniforms: number of random numbers that `augment` needs for each image.
        loss_is_scaled: whether gradients are those of a scaled loss (float16).
        sum_over_workers: see `tensorflow_quirks.SumOverWorkers`.
        strategy: TensorFlow's; what runs on the model runs under it.
        classes, workers: as given.
    """

    def __init__(
        self,
        config: TrainConfig,
        classes: int,
        *,
        worker: int,
        workers: int,
        one_node: bool,
        use_gpu: bool,
    ) -> None:
        keras = tensorflow_quirks.import_keras(config.cpus_per_worker, lean=True)
        import tensorflow as tf

        from catdog.training import augmentation

        recipe = config.hyperparameters
        self._tf, self._config = tf, config
        self.classes, self.workers = classes, workers
        keras.utils.set_random_seed(config.seed)
        precision = tensorflow_quirks.resolve_precision(config.precision, gpu=use_gpu)
        own_sums = workers > 1 and one_node and not use_gpu and all_reduce.possible()
        self.strategy = (
            tensorflow_quirks.multi_worker_strategy()
            if workers > 1 and not own_sums
            else tf.distribute.get_strategy()
        )
        with self.strategy.scope(), _weights_file(config.initial_weights) as weights:
            self.model = self._build(
                tensorflow_quirks.dtype_policy(precision),
                weights,
                any_size=recipe.augmented_scale < 1,
            )
            self.trunk: Any = None
            if config.trains_head_only:
                self._whole = self.model
                self.trunk, self.model = _halves(keras, self._whole)
            self.augment = (
                augmentation.Augmentation(
                    scale=recipe.augmented_scale,
                    light=recipe.augmentation == "light",
                    compiled=tensorflow_quirks.compiled,
                )
                if recipe.augmentation != "none"
                else None
            )
            optimizer = _optimizer(keras, recipe)
            tensorflow_quirks.expect_summed_gradients(optimizer)
            if precision == "float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            # Outside a strategy's scope, inside tf.function, variables cannot be created.
            optimizer.build(self.model.trainable_variables)
        self.sum_over_workers: tensorflow_quirks.SumOverWorkers = (
            self._own_sums(worker) if own_sums else tensorflow_quirks.sum_by_collectives
        )
        tensorflow_quirks.fuse_batch_norm(self.model, workers, self.sum_over_workers)
        tensorflow_quirks.pool_before_relu(self.model)
        self.uniforms = augmentation.UNIFORMS if self.augment else 0
        self.optimizer, self.loss_is_scaled = optimizer, precision == "float16"

    def _own_sums(self, worker: int) -> tensorflow_quirks.SumOverWorkers:
        import ray.train.collective

        return tensorflow_quirks.sum_by(
            all_reduce.SharedMemoryAllReduce(
                worker,
                self.workers,
                capacity=max(
                    sum(all_reduce.rounded_up(math.prod(w.shape)) for w in self.model.weights),
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
            self.classes,
            policy,
            weights=weights,
            any_size=any_size,
            multi_label=config.multi_label,
        )

    def losses(self, scores: Any, classes: Any, smoothing: float = 0.0, targets: Any = None) -> Any:
        """Loss and correctness of each image, float32 (n,); the loss to `targets` where given.

        Where images have several classes, both are means over the classes.
        """
        import keras

        tf = self._tf
        if self._config.multi_label:
            loss = keras.losses.binary_crossentropy(targets, scores, label_smoothing=smoothing)
            right = tf.cast((scores >= MULTI_LABEL_THRESHOLD) == (targets > 0), tf.float32)
            return loss, tf.reduce_mean(right, axis=1)
        if self.classes == 2:
            target = tf.cast(classes, tf.float32)[:, None] if targets is None else targets[:, 1:]
            loss = keras.losses.binary_crossentropy(target, scores, label_smoothing=smoothing)
            predicted = tf.cast(scores[:, 0] > 0.5, tf.int32)  # as Keras' binary accuracy
        else:
            target = tf.one_hot(classes, self.classes) if targets is None else targets
            loss = keras.losses.categorical_crossentropy(target, scores, label_smoothing=smoothing)
            predicted = tf.argmax(scores, axis=1, output_type=tf.int32)
        return loss, tf.cast(predicted == classes, tf.float32)

    def run(
        self,
        step: Callable[..., Any],
        batches: Iterator[Any],
        publish: Callable[[int, float], None] | None = None,
    ) -> tuple[float, float]:
        """Run `step` over the batches; mean loss and accuracy over all workers' images.

        Args:
            step: takes a batch as tensors; gives the sums of losses and of right answers.
            batches: as `reader.read` yields them.
            publish: told twice a second the steps done and the images a second of all workers.
        """
        sums = np.zeros(2)
        images = 0
        started = last = time.monotonic()
        with step_limit() as begin_step:
            for number, batch in enumerate(batches, start=1):
                sums += step(*map(self._tf.constant, batch)).numpy()
                images += int(batch[3])
                begin_step()
                if publish is not None and (now := time.monotonic()) - last > 0.5:
                    last = now
                    publish(number, images / (now - started))
        loss, correct = self.global_sums(sums) / images
        return float(loss), float(correct)

    def global_sums(self, values: Any) -> Any:
        """Numbers, float32, summed over the workers."""
        tf = self._tf
        reduce = tensorflow_quirks.traced(
            lambda value: self.strategy.run(
                lambda replica: self.sum_over_workers([replica])[0], args=(value,)
            )
        )
        return reduce(tf.constant(values, tf.float32)).numpy()

    def weights(self) -> list[Any]:
        """The network's weights, float32 arrays in Keras' order."""
        weights: list[Any] = self.model.get_weights()
        return weights

    def export(self, weights: list[Any]) -> dict[str, bytes]:
        """The model folder's files, in float32 whatever the precision of the training was."""
        if self.trunk is not None:
            self.model.set_weights(weights)  # the whole network shares its last layer
            weights = self._whole.get_weights()
        model = self._build("float32")
        model.set_weights(weights)
        return folders.export(model)


def _halves(keras: Any, whole: Any) -> tuple[Any, Any]:
    """The part from pixels to features, and the last layer, from features to scores."""
    scores = whole.get_layer("scores")
    trunk = keras.Model(whole.inputs[0], scores.input, name="trunk")
    trunk.trainable = False
    features = keras.Input(scores.input.shape[1:], dtype="float32", name="features")
    return trunk, keras.Model(features, scores(features), name="head")


def _optimizer(keras: Any, recipe: Recipe) -> Any:
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(recipe.learning_rate)
    if recipe.optimizer == "sgd":
        decay = recipe.weight_decay or None
        return keras.optimizers.SGD(
            recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=decay
        )
    from catdog.training.muon import Muon

    kind = Muon if recipe.optimizer == "muon" else keras.optimizers.AdamW
    optimizer = kind(recipe.learning_rate, weight_decay=recipe.weight_decay)
    # Scales and shifts are few and must be free to grow.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


@contextlib.contextmanager
def _weights_file(weights: str | None) -> Iterator[str | None]:
    """What Keras takes: None, `imagenet`, or a file on this node, there as long as the block lasts."""
    if weights in (None, "imagenet"):
        yield weights
        return
    uri = storage.to_uri(weights)
    if storage.is_local(uri):
        yield storage.local_path(uri)
        return
    # Ray Train starts a worker in a folder of its run.
    with (
        naming_full_disk(str(Path.cwd())),
        tempfile.TemporaryDirectory(dir=Path.cwd()) as folder,
    ):
        path = Path(folder) / Path(uri).name  # Keras goes by the extension
        path.write_bytes(storage.read_bytes(uri, _MAX_WEIGHTS_BYTES))
        yield str(path)


@contextlib.contextmanager
def step_limit() -> Iterator[Callable[[], None]]:
    """Within the block, end this process if a step, or the wait for its images, does not end.

    A stuck worker's process still answers Ray; only after it has ended does Ray Train restart its group.
    The stack of each of its threads goes to the worker's log.

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
