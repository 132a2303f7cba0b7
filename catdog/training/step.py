"""The training step: gradients of one global batch, summed over the workers, and their update.

`model.fit` fails under MultiWorkerMirroredStrategy on Keras 3 (PerReplica values in its symbolic
build, keras issue 20585), so the step is our own: a gradient tape under `strategy.run`. Each worker's
loss is the sum over its slice divided by the images of the GLOBAL batch; summed over the workers,
the gradients are exactly those of one large batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.runtime import tensorflow_quirks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catdog.training.config import Recipe
    from catdog.training.network import Network


class TrainingStep:
    """Trains on one batch when it is called with its tensors.

    Args:
        network: what is trained.
        recipe: how.
        class_weights: of each class in the loss, float32 (classes,).
    """

    def __init__(
        self, network: Network, recipe: Recipe, class_weights: NDArray[np.float32]
    ) -> None:
        self._network, self._recipe = network, recipe
        self._class_weights = class_weights
        self._learning_rate = recipe.learning_rate
        self._compile()

    def _compile(self) -> None:
        self._compiled = tensorflow_quirks.traced(self._step, reduce_retracing=True)

    def __call__(self, *batch: Any) -> Any:
        """Sums of the losses and of the right answers of this worker's slice, float32 (2,)."""
        return self._compiled(*batch)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if value != self._learning_rate:
            self._network.optimizer.learning_rate = self._learning_rate = value

    def forget_learning_rate(self) -> None:
        """The optimizer has another one: it was restored."""
        self._learning_rate = -1.0

    def begin(self, epoch: int) -> None:
        """Freeze or free the layers with initial weights, as this epoch (from 1) needs."""
        frozen = epoch <= self._recipe.frozen_epochs
        for layer in self._network.model.layers:
            if hasattr(layer, "layers") and layer.trainable is frozen:
                layer.trainable = not frozen
                self._compile()  # what is trainable is fixed when the step is compiled

    def _step(self, *batch: Any) -> Any:
        return self._network.strategy.run(self._on_replica, args=batch)

    def _on_replica(
        self,
        pixels: Any,
        classes: Any,
        weights: Any,
        total: Any,
        uniforms: Any,
        targets: Any = None,
    ) -> Any:
        import tensorflow as tf

        network, recipe = self._network, self._recipe
        if network.augment is not None:
            pixels = network.augment((pixels, uniforms))
        variables = network.model.trainable_variables
        with tf.GradientTape() as tape:
            scores = network.model(pixels, training=True)
            loss, correct = network.losses(scores, classes, recipe.label_smoothing, targets)
            loss *= tf.gather(self._class_weights, classes)
            share = tf.reduce_sum(loss * weights) / total
            if network.model.losses:
                regularization = tf.add_n(network.model.losses)
                share += regularization / network.workers
            scaled = network.optimizer.scale_loss(share)
        # The next sum is the next step's, which begins when the weights are up to date.
        gradients = network.sum_over_workers(tape.gradient(scaled, variables), passing=True)
        if recipe.gradient_clip:
            scale = network.optimizer.dynamic_scale if network.loss_is_scaled else 1.0
            gradients, _ = tf.clip_by_global_norm(gradients, recipe.gradient_clip * scale)
        self._update(gradients, variables)
        return tf.stack([tf.reduce_sum(loss * weights), tf.reduce_sum(correct * weights)])

    def _update(self, gradients: list[Any], variables: list[Any]) -> None:
        def update(gradients: list[Any]) -> None:
            self._network.optimizer.apply(gradients, variables)

        # Keras' dozen operations each go through all weights: 17 ms for `article`, 6 ms as one.
        tensorflow_quirks.compiled(update, assigns=True)(gradients)


def class_weights(
    wanted: str, train_classes: NDArray[np.int32], classes: int
) -> NDArray[np.float32]:
    """Weight of each class in the loss, float32 (classes,); `balanced`: as much as it is rarer.

    A class without an image has weight 0: nothing is ever multiplied by it.
    """
    if wanted != "balanced":
        return np.ones(classes, np.float32)
    counts = np.bincount(train_classes, minlength=classes)
    weights = np.where(counts, len(train_classes) / classes / np.maximum(counts, 1), 0)
    return weights.astype(np.float32)
