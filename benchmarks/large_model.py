"""Makes `cats-and-dogs-large`, with `large_model_tune.py` between its two steps.

    python -m benchmarks.large_model features PHOTOS WORK
    python benchmarks/large_model_tune.py WORK MINUTES SEED   (only needs PyTorch and NumPy)
    python -m benchmarks.large_model ship PHOTOS WORK

The first eleven blocks of EfficientNetLite0 keep ImageNet's weights and take most of the time. So their
output for the photos, unchanged and augmented, is computed once, and the other five blocks and the last
layer are trained on it. PyTorch trains them, because on CPUs it is several times as fast as TensorFlow
for depthwise layers. The shipped weights are the mean over all seeds.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import scipy.optimize
from PIL import Image, ImageEnhance

import catdog
from benchmarks import preparation
from benchmarks.ship import halved
from catdog.inputs import splits
from catdog.model import architectures, efficientnet_lite, folders
from catdog.pixels import DecodeLimits, Preprocessing, decode
from catdog.runtime import tensorflow_quirks

NAME = "cats-and-dogs-large"
SIDE, BATCH = 224, 32
FIRST_BLOCK = 11  # that is trained
VIEWS = {"plain": None, "changed": 2, "changed again": 3}  # seeds of the random changes
RECIPE = {"validation": 0.1, "test": 0.1}
PREPROCESSING = Preprocessing(height=SIDE, width=SIDE)


def photos(folder: str, part: str) -> list[tuple[str, bytes]]:
    """Names and bytes of a part's photos, sorted by name."""
    every = preparation.photos_in_tars(Path(folder))
    return sorted(each for each in every if splits.part_of(each[0], **RECIPE) == part)


def changed(data: bytes, random: np.random.Generator) -> np.ndarray:
    """A crop, turn, mirror image, light, colour or quality of its own; uint8 (SIDE, SIDE, 3)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    area, aspect = random.uniform(0.6, 1.0), np.exp(random.uniform(-0.15, 0.15))
    across, down = min(1, area * aspect) * width, min(1, area / aspect) * height
    left, top = random.uniform(0, width - across), random.uniform(0, height - down)
    if random.random() < 0.5:
        image = image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)
    box = (left, top, left + across, top + down)
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.1:
        image = image.convert("L").convert("RGB")
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(0.7, 1.3))
    if random.random() < 0.15:
        buffer, side = io.BytesIO(), int(random.integers(64, 200))
        image.resize((side, side)).save(buffer, "JPEG", quality=int(random.integers(10, 60)))
        image = Image.open(buffer).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def features(photos_folder: str, work_folder: str) -> None:
    """Write the inputs of the first block that is trained, float16 (n, 14, 14, 112), and labels."""
    keras = tensorflow_quirks.import_keras(1)
    import openvino

    work = Path(work_folder)
    weights = efficientnet_lite.read_weights(efficientnet_lite.weights_file())
    np.savez(work / "weights.npz", **weights)
    trunk = efficientnet_lite.trunk()
    efficientnet_lite.set_weights(trunk, weights)
    first = keras.Model(trunk.inputs[0], trunk.get_layer(f"block{FIRST_BLOCK}_expand").input)
    images = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    model = keras.Model(images, first(keras.layers.Rescaling(1 / 128, offset=-127 / 128)(images)))
    model.export(str(work / "first.xml"), format="openvino", verbose=False)
    request = openvino.Core().compile_model(work / "first.xml", "CPU").create_infer_request()
    for part in ("train", "validation"):
        given = photos(photos_folder, part)
        dogs = [name.startswith("dog/") for name, _ in given]
        np.save(work / f"{part}-dogs.npy", np.array(dogs, np.float32))
        for view, seed in VIEWS.items() if part == "train" else [("plain", None)]:
            random = np.random.default_rng(seed)
            made = np.empty((len(given), 14, 14, 112), np.float16)
            for start in range(0, len(given), BATCH):
                pixels = [
                    decode(data, PREPROCESSING, DecodeLimits()).pixels
                    if seed is None
                    else changed(data, random)
                    for _, data in given[start : start + BATCH]
                ]
                made[start : start + BATCH] = request.infer(np.stack(pixels))[0]
            np.save(work / f"{part}-{view.replace(' ', '-')}.npy", made)


def best_temperature(logits: np.ndarray, dogs: np.ndarray) -> float:
    """The temperature that gives the least cross-entropy when logits are divided by it."""

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0, (1 - 2 * dogs) * logits / temperature).mean())

    return float(scipy.optimize.minimize_scalar(loss, bounds=(0.2, 5), method="bounded").x)


def ship(photos_folder: str, work_folder: str) -> None:
    """Into the package: the mean of what was tuned, in float16, calibrated on the validation part."""
    tensorflow_quirks.import_keras(1)
    work = Path(work_folder)
    runs = [dict(np.load(path)) for path in sorted(work.glob("tuned-*.npz"))]
    tuned = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    last = [tuned.pop("scores.weight").T, tuned.pop("scores.bias")]
    network = architectures.build("EfficientNetLite0", PREPROCESSING, 2, "float32")
    (trunk,) = (layer for layer in network.layers if hasattr(layer, "layers"))
    efficientnet_lite.set_weights(trunk, dict(np.load(work / "weights.npz")) | tuned)

    def save(folder: Path, temperature: float) -> str:
        network.get_layer("scores").set_weights([each / temperature for each in last])
        rounded = [w.astype(np.float16).astype(np.float32) for w in network.get_weights()]
        network.set_weights(rounded)
        recipe = RECIPE | {"images": ["photos"]}
        metadata = folders.save(
            folder.as_uri(),
            halved(folders.export(network)),
            labels=("cat", "dog"),
            preprocessing=PREPROCESSING,
            architecture="EfficientNetLite0",
            training={"recipe": recipe, "temperature": temperature, "seeds": len(runs)},
        )
        return metadata.fingerprint

    save(work / "uncalibrated", 1.0)
    given = photos(photos_folder, "validation")
    answers = catdog.load_model(work / "uncalibrated").predict([data for _, data in given])
    dog = np.clip([answer.scores[1] for answer in answers], 1e-7, 1 - 1e-7)
    dogs = np.array([name.startswith("dog/") for name, _ in given], np.float32)
    temperature = best_temperature(np.log(dog / (1 - dog)), dogs)
    print(f"validation: {np.mean((dog > 0.5) == dogs):.2%}, temperature {temperature:.3f}")
    print(save(folders.WEIGHTS_FOLDER / NAME, temperature))


if __name__ == "__main__":
    {"features": features, "ship": ship}[sys.argv[1]](*sys.argv[2:])
