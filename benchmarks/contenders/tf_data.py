"""The usual single process: a tf.data pipeline and `model.predict`, in float32."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"


def main(folder: str, model: str, output: str) -> None:
    import keras
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tensorflow as tf

    network = keras.saving.load_model(Path(model) / "model.keras")
    height, width = network.input_shape[1:3]
    paths = sorted(str(path) for path in Path(folder).rglob("*.jpg"))

    def load(path):
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.cast(tf.image.resize(pixels, (height, width)), tf.uint8)

    first = None

    class Watch(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            nonlocal first
            first = first or time.time()

    data = tf.data.Dataset.from_tensor_slices(paths)
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(32).prefetch(tf.data.AUTOTUNE)
    scores = network.predict(data, verbose=0, callbacks=[Watch()])
    ended = time.time()
    pq.write_table(pa.table({"uri": paths, "score": scores[:, 0]}), output)
    steady = (len(paths) - 32) / (ended - first)
    print(json.dumps({"images": len(paths), "images_per_s": steady, "first_image_at": first}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
