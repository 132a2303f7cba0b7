"""Muon (Jordan et al. 2024): every direction of a convolution's update is made equally long.

A gradient's few strong directions drown the others, which matter as much. In short runs, convolutions
learn in fewer steps than with AdamW (docs/decisions/016); all other weights have AdamW here, too.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

_MOMENTUM = 0.95
_RATE = 10.0  # of convolutions, in learning rates of AdamW
_ITERATIONS = 4
# Of a polynomial that brings all singular values near to 1 in few iterations (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_COLOURS = 3  # the first layer's channels: it has AdamW


class Muon(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW with Muon for the kernels of convolutions; takes AdamW's arguments and rates."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Bring one variable up to date."""
        shape = variable.shape
        if len(shape) != 4 or shape[2] <= _COLOURS:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[self._get_variable_index(variable)]
        self.assign(momentum, _MOMENTUM * momentum + (1 - _MOMENTUM) * gradient)
        ahead = _MOMENTUM * momentum + (1 - _MOMENTUM) * gradient
        inputs, filters = math.prod(shape[:3]), shape[3]
        matrix = ops.transpose(ops.reshape(ahead, (inputs, filters)))
        update = ops.reshape(ops.transpose(_orthogonal(matrix)), shape)
        longer = max(1.0, filters / inputs) ** 0.5
        self.assign_sub(variable, update * (learning_rate * (_RATE * longer)))


def _orthogonal(matrix: Any) -> Any:
    """About the nearest matrix with orthogonal rows of length 1, (filters, inputs)."""
    first, third, fifth = _COEFFICIENTS
    matrix = matrix / (ops.norm(matrix) + 1e-7)
    for _ in range(_ITERATIONS):
        square = matrix @ ops.transpose(matrix)
        matrix = first * matrix + (third * square + fifth * (square @ square)) @ matrix
    return matrix
