"""Daft: download, decode, resize as its expressions, the model in a class UDF, Parquet out."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"


def main(folder: str, model: str, output: str, height: int, width: int) -> None:
    import daft
    import numpy as np
    import pyarrow.parquet as pq
    from daft import DataType, col

    @daft.udf(return_dtype=DataType.struct({"score": DataType.float32(), "at": DataType.float64()}))
    class Classify:
        def __init__(self) -> None:
            import keras

            self.network = keras.saving.load_model(Path(model) / "model.keras")

        def __call__(self, image):
            rows = []
            pixels = image.to_pylist()
            for start in range(0, len(pixels), 32):
                scores = self.network.predict_on_batch(np.stack(pixels[start : start + 32]))
                rows += [{"score": float(score), "at": time.time()} for score in scores[:, 0]]
            return rows

    data = daft.from_glob_path(f"{folder}/**/*.jpg").into_batches(256)
    data = data.with_column(
        "image",
        col("path").download().decode_image(mode="RGB").resize(width, height),
    )
    data = data.with_column("out", Classify(col("image"))).select("path", "out")
    data.write_parquet(output)
    rows = pq.read_table(output)["out"].combine_chunks()
    at = sorted(rows.field("at").to_pylist())
    steady = (len(at) - 32) / (at[-1] - at[0])
    print(json.dumps({"images": len(at), "images_per_s": steady, "first_image_at": at[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
