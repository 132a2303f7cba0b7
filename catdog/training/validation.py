"""What is validated: the average weights, their loss and accuracy, and the scores' temperature."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.runtime import tensorflow_quirks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from catdog.training.network import Network

AVERAGE_STEPS = 8  # between two updates of the average weights: each costs a copy of all of them


def validation_step(network: Network) -> Callable[..., Any]:
    """What takes a batch as tensors and gives its sums of losses and right answers, float32 (2,)."""
    import tensorflow as tf

    def on_replica(pixels: Any, classes: Any, weights: Any, targets: Any) -> Any:
        scores = network.model(pixels, training=False)
        loss, correct = network.losses(scores, classes, targets=targets)
        return tf.stack([tf.reduce_sum(loss * weights), tf.reduce_sum(correct * weights)])

    def step(pixels: Any, classes: Any, weights: Any, total: Any, targets: Any = None) -> Any:
        del total
        return network.strategy.run(on_replica, args=(pixels, classes, weights, targets))

    compiled: Callable[..., Any] = tensorflow_quirks.traced(step, reduce_retracing=True)
    return compiled


class AverageWeights:
    """A running average of a network's weights, moving statistics among them.

    Args:
        network: whose weights.
        decay: per step; 0 for no average.

    Attributes:
        values: the average, arrays in Keras' order; None before the first.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self._network, self._decay = network, decay
        self.values: list[Any] | None = None

    def update(self, step: int) -> None:
        """Bring it up to this step, from 1; to be called every `AVERAGE_STEPS`."""
        if not self._decay:
            return
        weights = self._network.weights()
        if self.values is None:
            self.values = weights
        # The first weights are worth little: the average begins short and grows to its length.
        decay = min(self._decay, (1 + step) / (10 + step)) ** AVERAGE_STEPS
        self.values = [
            decay * average + (1 - decay) * weight
            for average, weight in zip(self.values, weights, strict=True)
        ]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the network has the average weights, where there are any."""
        if self.values is None:
            yield
            return
        weights = self._network.weights()
        self._network.model.set_weights(self.values)
        yield
        self._network.model.set_weights(weights)


def calibrated(
    network: Network, weights: list[Any], batches: Iterator[Any]
) -> tuple[list[Any], float]:
    """Weights whose scores are scaled by one temperature, and that temperature.

    It is the one under which the labels of `batches` are most likely (Guo et al. 2017, "On
    Calibration of Modern Neural Networks"). It divides the last layer's weights, so nothing
    downstream knows of it, and no label changes.
    """
    import tensorflow as tf

    network.model.set_weights(weights)
    temperatures = np.exp(np.linspace(np.log(0.2), np.log(5.0), 121)).astype(np.float32)
    losses = np.zeros(len(temperatures))
    predict = tensorflow_quirks.traced(lambda pixels: network.model(pixels, training=False))
    for pixels, classes, image_weights, _, *answers in batches:
        scores = network.strategy.run(predict, args=(tf.constant(pixels),)).numpy()
        losses += image_weights @ (
            scaled_label_losses(scores, answers[0], temperatures)
            if answers
            else scaled_losses(scores, classes, temperatures)
        )
    temperature = float(temperatures[np.argmin(network.global_sums(losses))])
    last = {id(variable) for variable in network.model.get_layer("scores").weights}
    return [
        weight / np.float32(temperature) if id(variable) in last else weight
        for variable, weight in zip(network.model.weights, weights, strict=True)
    ], temperature


def scaled_losses(
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


def scaled_label_losses(
    scores: NDArray[np.float32], answers: NDArray[np.float32], temperatures: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean binary cross-entropy of each image's classes at each temperature, (n, temperatures)."""
    likely = np.clip(scores, 1e-7, 1 - 1e-7).astype(np.float64)
    scaled = (np.log(likely) - np.log1p(-likely))[:, :, None] / temperatures
    by_class = np.logaddexp(0, scaled) - answers[:, :, None] * scaled
    losses: NDArray[np.float64] = by_class.mean(axis=1)
    return losses
