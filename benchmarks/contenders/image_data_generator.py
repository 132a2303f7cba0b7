"""The article's own way: ImageDataGenerator and `fit`, one process, float32."""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"


def main(folder: str, epochs: str) -> None:
    import keras
    from keras import layers
    from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

    stack = [keras.Input((150, 150, 3))]
    for filters in (32, 64, 128, 128):
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2)]
    stack += [
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ]
    model = keras.Sequential(stack)
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    model.optimizer.learning_rate = 1e-4
    data = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        folder, target_size=(150, 150), batch_size=32, class_mode="binary"
    )
    rates = []
    for _ in range(int(epochs)):
        started = time.time()
        model.fit(data, epochs=1, verbose=0)
        rates.append(data.samples / (time.time() - started))
    print(json.dumps({"images_per_s": max(rates)}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
