"""Trains the model in tests/tiny_model on drawings: `python -m tests.make_tiny_model`.

For tests that need any model: 4,000 parameters that tell drawn cats from dogs better than chance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from catdog.demo import drawings
from catdog.model import folders
from catdog.pixels import DecodeLimits, Preprocessing, decode
from catdog.runtime import tensorflow_quirks

PLACE = Path(__file__).with_name("tiny_model")
LABELS = ("cat", "dog")
PREPROCESSING = Preprocessing(height=64, width=72, resize="stretch")


def main() -> None:
    """Draw, train, write."""
    keras = tensorflow_quirks.import_keras(2)
    keras.utils.set_random_seed(0)
    pictures = [
        decode(drawings.draw_jpeg(label, seed), PREPROCESSING, DecodeLimits()).pixels
        for seed in range(1000, 1600)
        for label in LABELS
    ]
    classes = np.tile([0, 1], len(pictures) // 2)
    network = keras.Sequential(
        [
            keras.Input((64, 72, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            *(
                keras.layers.Conv2D(filters, 3, strides=2, activation="relu")
                for filters in (8, 12, 16)
            ),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    network.optimizer.learning_rate = 3e-3
    history = network.fit(np.stack(pictures), classes, 32, 60, validation_split=0.2, verbose=0)
    alone = keras.models.clone_model(network)  # without the optimizer
    alone.set_weights(network.get_weights())
    folders.save(
        PLACE.as_uri(),
        folders.export(alone),
        labels=LABELS,
        preprocessing=PREPROCESSING,
        architecture="tiny",
        training={
            "best": {"val_accuracy": round(history.history["val_accuracy"][-1], 3)},
            "recipe": {"validation": 0.2, "test": 0.0},
        },
    )


if __name__ == "__main__":
    main()
