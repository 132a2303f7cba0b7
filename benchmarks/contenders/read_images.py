"""Ray Data's documented way: `read_images`, an actor pool with the model, `write_parquet`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"


class Classify:
    def __init__(self, model: str) -> None:
        import keras

        self.network = keras.saving.load_model(Path(model) / "model.keras")

    def __call__(self, batch):
        scores = self.network.predict_on_batch(batch["image"])
        return {"path": batch["path"], "score": scores[:, 0], "at": [time.time()] * len(scores)}


def main(folder: str, model: str, output: str, height: int, width: int) -> None:
    import pyarrow.parquet as pq
    import ray

    ray.init(include_dashboard=False, log_to_driver=False)
    cpus = int(ray.cluster_resources()["CPU"])
    data = ray.data.read_images(folder, size=(height, width), mode="RGB", include_paths=True)
    data = data.map_batches(
        Classify,
        fn_constructor_args=(model,),
        batch_size=32,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=cpus),
    )
    data.write_parquet(output)
    at = sorted(pq.read_table(output, columns=["at"])["at"].to_pylist())
    steady = (len(at) - 32) / (at[-1] - at[0])
    print(json.dumps({"images": len(at), "images_per_s": steady, "first_image_at": at[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
