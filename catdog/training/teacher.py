"""Scores of another model, the teacher, which the network learns beside the labels.

The teacher sees each image once, with its own preprocessing, before the first epoch. Its scores are
kept in the run's folder, so that a resumed run has the same. A label is right or wrong; scores also
say how cat-like a picture is, and they exist for pictures that nobody labelled.
"""

from __future__ import annotations

import dataclasses
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog import storage
from catdog.errors import CatdogError, UserInputError
from catdog.inputs import SourceLimits
from catdog.model import folders
from catdog.pixels import DecodeEntries, DecodeLimits, as_pixels
from catdog.runtime import nodes, ray_quirks
from catdog.training import decoding
from catdog.training.labelled import TEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from catdog.observer import Observer
    from catdog.training.data import DecodedImages
    from catdog.training.labelled import LabelledImages

SCORES_FILE = "teacher.npz"
LABELS_SHARE = (
    0.5  # share of the label in the target of a labelled image; the rest is the teacher's
)
_BATCH_IMAGES = 32
_MAX_SCORES_BYTES = 64 * 2**30


def load(name: str, labels: tuple[str, ...]) -> folders.Model:
    """The teacher of a run with these classes.

    Raises:
        UserInputError: there is no model of this name, or it knows other classes.
        CatdogError: it is damaged.
    """
    try:
        model = folders.load(name)
    except CatdogError as error:
        raise type(error)(str(error).replace("--model", "--teacher", 1)) from error
    if model.metadata.multi_label:
        raise UserInputError(
            f"--teacher {name}: is a --multi-label model; a teacher must give each image one class"
        )
    if model.metadata.labels != labels:
        raise UserInputError(
            f"--teacher {name}: knows {', '.join(model.metadata.labels)}; the images are of "
            f"{', '.join(labels)}"
        )
    return model


def targets(classes: NDArray[np.int32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is learned of each image: probabilities (n, classes), rows summing to 1.

    Args:
        classes: class numbers (n,), -1 for an image without a label.
        scores: of the teacher (n, classes); a row of NaN where it could not see the image.
    """
    labelled, seen = classes >= 0, ~np.isnan(scores[:, 0])
    share = np.where(labelled, np.where(seen, LABELS_SHARE, 1.0), 0.0).astype(np.float32)[:, None]
    given = np.eye(scores.shape[1], dtype=np.float32)[classes]  # of -1 it is another's, times 0
    mixed: NDArray[np.float32] = share * given + (1 - share) * np.nan_to_num(scores)
    return mixed


def taught(images: DecodedImages, scores: NDArray[np.float32]) -> DecodedImages:
    """The images with their targets, those without a label in the teacher's class.

    One without a label that the teacher could not see is left out.
    """
    import ray

    unlabelled, seen = images.classes < 0, ~np.isnan(scores[:, 0])
    answers = np.nan_to_num(scores).argmax(axis=1).astype(np.int32)
    return dataclasses.replace(
        images,
        classes=np.where(unlabelled, answers, images.classes),
        train=images.train[(seen | ~unlabelled)[images.train]],
        targets=ray.put(targets(images.classes, scores)),
    )


def scores_of(
    model: folders.Model,
    labelled: LabelledImages,
    output: str,
    *,
    actors: int,
    label: str | None,
    observer: Observer,
) -> NDArray[np.float32]:
    """The teacher's scores of all images to train on or to validate with, (n, classes).

    The rows of other images, and of those that cannot be decoded, are NaN.

    Args:
        model: the teacher.
        labelled: all images.
        output: the run's folder, which has the scores once they are computed.
        actors: how many compute.
        label: of the nodes that do, as `nodes.on_label` takes it; None for any.
        observer: follows the progress.

    Raises:
        CatdogError: nodes are gone and do not return.
    """
    count = len(labelled.classes)
    uri, fingerprint = storage.join(output, SCORES_FILE), model.metadata.fingerprint
    if storage.exists(uri):
        with np.load(io.BytesIO(storage.read_bytes(uri, _MAX_SCORES_BYTES))) as kept:
            if str(kept["fingerprint"]) == fingerprint and len(kept["scores"]) == count:
                found: NDArray[np.float32] = kept["scores"]
                return found
    found = np.full((count, len(model.metadata.labels)), np.nan, np.float32)
    total, started, done, rejected = int((labelled.parts != TEST).sum()), time.monotonic(), 0, 0
    with ray_quirks.plain_errors():
        watch = nodes.NodeWatch(1, cpus=1, label=label, on_lost=observer.phase)
        computed = _computed(model, labelled, actors, label)
        for index, scores in nodes.watched(computed, watch.check):
            seen = ~np.isnan(scores[:, 0])
            found[index] = scores
            done, rejected = done + len(seen), rejected + int((~seen).sum())
            observer.progress(done, total, rejected, done / (time.monotonic() - started))
    buffer = io.BytesIO()
    np.savez(buffer, fingerprint=fingerprint, scores=found)
    storage.write_atomic(uri, buffer.getvalue())
    return found


def _computed(
    model: folders.Model, labelled: LabelledImages, actors: int, label: str | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Numbers of images and their scores, as they come."""
    import ray
    from ray.data import ActorPoolStrategy

    shards = [ray.put(shard) for shard in decoding.shards(labelled)]
    # Numbers, as in `decoding`: the shards themselves would start a task each on any CPU.
    numbers = [pa.table({"shard": [number]}) for number in range(len(shards))]
    scored = ray_quirks.map_batches(
        ray.data.from_blocks(numbers),
        _Scorer,
        fn_constructor_args=([ray.put(model)], shards),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(actors, len(shards))),
        num_cpus=1,
        node_label=label,
    )
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        width = table["scores"].type.list_size
        flat = table["scores"].combine_chunks().flatten().to_numpy()
        yield table["index"].to_numpy(), flat.reshape(-1, width)


class _Scorer:
    """Scores tables of entries: rows of `index` and `scores`, NaN where one cannot be decoded.

    It is given a table with the number of a shard.

    Args:
        model: a list with the teacher's reference.
        shards: references of the tables.
    """

    def __init__(self, model: list[Any], shards: list[Any]) -> None:
        import ray

        from catdog.model import inference

        teacher: folders.Model = ray.get(model[0])
        self._shards = shards
        self._classes = len(teacher.metadata.labels)
        preprocessing = teacher.metadata.preprocessing
        self._shape = (preprocessing.height, preprocessing.width, 3)
        self._decode = DecodeEntries(preprocessing, DecodeLimits(), SourceLimits(), ("index",))
        self._predict = inference.load_predictor(teacher)

    def __call__(self, numbers: pa.Table) -> pa.Table:
        import ray

        decoded = self._decode(ray.get(self._shards[numbers["shard"][0].as_py()]))
        pixels = as_pixels(decoded["pixels"], self._shape)
        scores = np.empty((len(pixels), self._classes), np.float32)
        for start in range(0, len(pixels), _BATCH_IMAGES):
            batch = slice(start, start + _BATCH_IMAGES)
            scores[batch] = self._predict(pixels[batch])
        scores[decoded["error"].is_valid().to_numpy(zero_copy_only=False)] = np.nan
        column = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), self._classes)
        return pa.table({"index": decoded["index"], "scores": column})
