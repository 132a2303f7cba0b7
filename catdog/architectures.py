"""The networks, by name. They use `keras.*` only, so that they run on every Keras backend.

Every network takes uint8 RGB pixels (n, height, width, 3) and gives probabilities in float32:
(n, 1) with a sigmoid for two classes (of the second label), (n, classes) with a softmax beyond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from catdog.images import Preprocessing

Architecture = Literal["seed"]


def build(
    architecture: Architecture, preprocessing: Preprocessing, classes: int, dtype_policy: str
) -> Any:
    """A fresh `keras.Model` of the named architecture.

    Args:
        architecture: the name.
        preprocessing: gives the height and width of the input.
        classes: two or more.
        dtype_policy: Keras' dtype policy of the hidden layers; the output is float32 always.
    """
    import keras

    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        pixels = keras.Input(
            (preprocessing.height, preprocessing.width, 3), dtype="uint8", name="pixels"
        )
        features = _seed(pixels)
        scores = keras.layers.Dense(
            1 if classes == 2 else classes,
            activation="sigmoid" if classes == 2 else "softmax",
            dtype="float32",
            name="scores",
        )(features)
        return keras.Model(pixels, scores, name=architecture)
    finally:
        keras.config.set_dtype_policy(previous)


def _seed(pixels: Any) -> Any:
    """The CNN that the project began from: 3,453,121 parameters at 150x150 with two classes."""
    from keras import layers

    x = layers.Rescaling(1 / 255)(pixels)
    for filters in (32, 64, 128, 128):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    return layers.Dense(512, activation="relu")(x)
