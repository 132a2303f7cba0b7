"""The figures of docs/model-card.md: `python -m benchmarks.model_card PHOTOS ORIGINALS ODD [ARTICLE_RUN]`.

It evaluates the models that ship and a run of the article's recipe on the parts of the photos and on
changed copies of the test part, searches for duplicates across the parts, and classifies images of
neither class with the first model. It writes docs/model-card.json; without a run of the article's
recipe, that run's earlier figures stay.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.dataset
from PIL import Image, ImageEnhance

from benchmarks import preparation
from catdog.classification import ClassifyConfig, classify
from catdog.evaluation import EvaluateConfig, evaluate
from catdog.inputs import splits
from catdog.model import folders
from catdog.runtime import ray_quirks

OUTPUT = Path("docs/model-card.json")
LARGE = "cats-and-dogs-large"
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
_DUPLICATE = 0.97  # correlation of two photos' 16x16 thumbnails


def _jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", **{"quality": 95} | options)
    return buffer.getvalue()


def _crop(image, left, top, right, bottom):
    width, height = image.size
    return image.crop((left * width, top * height, right * width, bottom * height))


def _turned_with_exif(image):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it": what phones write
    return _jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())


CHANGES = {
    "turned, upright by EXIF": _turned_with_exif,
    "middle 80 % of each side": lambda image: _jpeg(_crop(image, 0.1, 0.1, 0.9, 0.9)),
    "top left 70 % of each side": lambda image: _jpeg(_crop(image, 0, 0, 0.7, 0.7)),
    "middle half, 1:2 upright": lambda image: _jpeg(_crop(image, 0.25, 0, 0.75, 1)),
    "grey": lambda image: _jpeg(image.convert("L")),
    "64x64 pixels": lambda image: _jpeg(image.resize((64, 64), Image.Resampling.LANCZOS)),
    "JPEG quality 10": lambda image: _jpeg(image, quality=10),
    "half as bright": lambda image: _jpeg(ImageEnhance.Brightness(image).enhance(0.5)),
    "mirrored": lambda image: _jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def _write_changed(photos, change, path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in photos:
            data = change(Image.open(io.BytesIO(content)))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _figures(images, model, output: Path, **arguments) -> dict:
    result = evaluate(
        EvaluateConfig(images=(str(images),), model=model, output=str(output), **arguments)
    )
    figures = {
        "images": result.images,
        "accuracy": result.accuracy,
        "low": result.accuracy_low,
        "high": result.accuracy_high,
        "ece": result.ece,
        "log_loss": result.log_loss,
        "confusion": result.confusion,
        "classes": result.classes,
        "mistakes": result.mistakes[:15],
    }
    return json.loads(json.dumps(figures).replace(str(Path(images).resolve()), Path(images).name))


def _probabilities(folder: Path) -> tuple[np.ndarray, list[bool | None]]:
    rows = pyarrow.dataset.dataset(sorted(folder.glob("part-*.parquet"))).to_table(
        columns=["uri", "label", "probability", "error"]
    )
    rows = [row for row in rows.to_pylist() if row["error"] is None]
    right = [row["uri"].split("::")[0].split("/")[-1].startswith(row["label"]) for row in rows]
    return np.array([row["probability"] for row in rows]), right


def _duplicates(photos: list[tuple[str, bytes]], recipe: dict) -> dict:
    names = [name for name, _ in photos]
    thumbnails = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((16, 16)), np.float32)
            for _, content in photos
        ]
    ).reshape(len(photos), -1)
    thumbnails -= thumbnails.mean(axis=1, keepdims=True)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True) + 1e-6
    part = [
        splits.part_of(name, validation=recipe["validation"], test=recipe["test"]) for name in names
    ]
    pairs = []
    for start in range(0, len(names), 1000):
        close = np.argwhere(thumbnails[start : start + 1000] @ thumbnails.T > _DUPLICATE)
        pairs += [(start + a, b) for a, b in close.tolist() if start + a < b]
    across = [(names[a], part[a], names[b], part[b]) for a, b in pairs if part[a] != part[b]]
    return {
        "pairs": len(pairs),
        "across_parts": across,
        "other_label": [(a, b) for a, _, b, _ in across if a.split("/")[0] != b.split("/")[0]],
    }


def main(photos_folder: str, originals: str, odd: str, article_run: str | None = None) -> None:
    """Measure everything; about ten minutes on two cores."""
    work = Path(tempfile.mkdtemp())
    photos = list(preparation.photos_in_tars(Path(photos_folder)))
    metadata = folders.load(folders.SHIPPED).metadata
    recipe = metadata.training["recipe"]

    def is_test(name: str) -> bool:
        return splits.part_of(name, validation=recipe["validation"], test=recipe["test"]) == "test"

    test = [(name, content) for name, content in photos if is_test(name)]
    card: dict = {"fingerprint": metadata.fingerprint, "duplicates": _duplicates(photos, recipe)}
    models = {"shipped": folders.SHIPPED, "large": LARGE}
    if article_run is None:
        card["article"] = json.loads(OUTPUT.read_text())["article"]
    else:
        models["article"] = article_run
    card["large fingerprint"] = folders.load(LARGE).metadata.fingerprint
    with ray_quirks.connect(None):
        for title, model in models.items():
            card[title] = {
                part: _figures(photos_folder, model, work / title / part, part=part)
                for part in ("train", "validation", "test")
            }
            card[title]["originals"] = _figures(originals, model, work / title / "originals")
            card[title]["originals, test"] = _figures(
                originals, model, work / title / "originals-test", part="test"
            )
            for number, (change, function) in enumerate(CHANGES.items()):
                tar = work / f"{number}.tar"
                _write_changed(test, function, tar)
                card[title][change] = _figures(tar, model, work / title / str(number))
        shutil.copy(work / "shipped" / "test" / "plots.png", "docs/model-card-test.png")
        classify(ClassifyConfig(images=(odd,), output=str(work / "odd"), max_rejected=1.0))
    known, right = _probabilities(work / "shipped" / "test" / "results")
    strange, _ = _probabilities(work / "odd")
    card["thresholds"] = [
        {
            "min_probability": threshold,
            "photos_uncertain": float((known < threshold).mean()),
            "accuracy_of_the_rest": float(np.mean(np.array(right)[known >= threshold])),
            "odd_uncertain": float((strange < threshold).mean()),
        }
        for threshold in THRESHOLDS
    ]
    card["odd_images"] = len(strange)
    OUTPUT.write_text(json.dumps(card, indent=1) + "\n")
    shutil.rmtree(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
