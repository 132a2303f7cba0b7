"""Pictures scored by Keras as its own guides do it: `load_img`, then `model.predict`.

python keras_predict.py MODEL FILE     prints the probability of one picture
python keras_predict.py MODEL FOLDER   prints how long that takes, as JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(model_folder: str, images: str) -> None:
    started = time.perf_counter()
    import keras
    import numpy as np

    imported = time.perf_counter()
    geometry = json.loads(Path(model_folder, "metadata.json").read_text())["preprocessing"]
    size = geometry["height"], geometry["width"]
    model = keras.saving.load_model(Path(model_folder, "model.keras"), compile=False)

    def pixels_of(paths: list[Path]) -> np.ndarray:
        options = {"target_size": size, "interpolation": "bilinear"}
        return np.stack([np.asarray(keras.utils.load_img(path, **options)) for path in paths])

    def predict(pixels: np.ndarray) -> np.ndarray:
        return model.predict(pixels, batch_size=32, verbose=0)

    if Path(images).is_file():
        print(float(predict(pixels_of([Path(images)]))[0, 0]))
        return
    paths = sorted(Path(images).glob("*.jpg"))
    predict(pixels_of(paths[:1]))
    answered = time.perf_counter()
    pixels = pixels_of(paths)
    predict(pixels)
    begun = time.perf_counter()
    predict(pixels_of(paths))
    whole = time.perf_counter()
    predict(pixels)
    told = {
        "import_s": imported - started,
        "first_s": answered - imported,
        "images_per_s": len(paths) / (whole - begun),
        "engine_images_per_s": len(paths) / (time.perf_counter() - whole),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
