"""Images for training: decoded once by Ray Data, kept in the object store, read in any order.

The order of an epoch is a function of the seed alone and never of the number of workers: every
worker computes the same global batches and takes its slice of each. So N workers see what one
would see, nothing is dropped where the numbers do not divide, and no worker can starve.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog import inputs
from catdog.errors import UserInputError
from catdog.inputs import splits
from catdog.pixels import DecodeEntries, as_pixels
from catdog.runtime import ray_quirks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from catdog.inputs import SourceLimits
    from catdog.pixels import DecodeLimits, Preprocessing

_SHARD_IMAGES = 256


@dataclass(frozen=True)
class LabelledImages:
    """What there is to train on.

    Attributes:
        entries: the plan of all images with a label, in the order of their parts.
        labels: the classes, sorted by name.
        classes: class number of each entry, int32 (n,).
        parts: part of each entry, (n,) of str.
    """

    entries: pa.Table
    labels: tuple[str, ...]
    classes: NDArray[np.int32]
    parts: NDArray[np.str_]


def list_labelled(
    images: Sequence[str], limits: SourceLimits, *, validation: float, test: float
) -> LabelledImages:
    """List the images, with a label each and a part by `splits.part_of`.

    Raises:
        UserInputError: no labels, or a single one, or an empty train or validation part.
    """
    plan = pa.Table.from_batches(list(inputs.list_images(images, limits)), inputs.PLAN_SCHEMA)
    shown = " ".join(images)
    names, image_labels = plan["name"].to_pylist(), plan["label"].to_pylist()
    unlabelled = [name for name, label in zip(names, image_labels, strict=True) if label is None]
    if unlabelled and len(unlabelled) == len(names):
        raise UserInputError(
            f"{shown}: no labels; training wants one folder per class "
            "(or archives of such folders, or a table with a label column)"
        )
    if unlabelled:
        raise UserInputError(
            f"{shown}: {len(unlabelled)} images have no label, among them {unlabelled[0]!r}"
        )
    labels = tuple(sorted(set(image_labels)))
    if len(labels) < 2:
        raise UserInputError(f"{shown}: {len(labels)} class found, training wants two or more")
    numbers = {label: number for number, label in enumerate(labels)}
    classes = np.array([numbers[label] for label in image_labels], np.int32)
    parts = np.array([splits.part_of(name, validation=validation, test=test) for name in names])
    for part in ("train", "validation"):
        if not (parts == part).any():
            raise UserInputError(f"{shown}: no image falls into the {part} part")
    order = np.argsort(parts, kind="stable")  # blocks of one part each
    return LabelledImages(plan.take(pa.array(order)), labels, classes[order], parts[order])


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images in Ray's object store; small itself, so it travels to every worker.

    Attributes:
        blocks: references of the tables that `DecodeEntries` made.
        block_of, row_of: where image i lies, int32 (n,).
        classes: class number of image i, int32 (n,).
        train, validation: which images belong to the parts, int64.
        shape: height, width, 3.
        rejected: URI, reason and sentence of what could not be decoded.
    """

    blocks: tuple[Any, ...]
    block_of: NDArray[np.int32]
    row_of: NDArray[np.int32]
    classes: NDArray[np.int32]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    shape: tuple[int, int, int]
    rejected: tuple[tuple[str, str, str], ...]


def decode_all(
    labelled: LabelledImages,
    preprocessing: Preprocessing,
    decode_limits: DecodeLimits,
    source_limits: SourceLimits,
    actors: int,
) -> DecodedImages:
    """Decode the train and validation images with a Ray Data job. The cluster is connected."""
    import ray
    from ray.data import ActorPoolStrategy

    used = np.flatnonzero(labelled.parts != "test")
    shards = []
    for part in ("train", "validation"):
        members = np.flatnonzero(labelled.parts == part)
        for start in range(0, len(members), _SHARD_IMAGES):
            rows = members[start : start + _SHARD_IMAGES]
            shard = labelled.entries.take(pa.array(rows))
            shards.append(shard.append_column("index", pa.array(rows, pa.int64())))
    summarize = ray.remote(num_cpus=1)(_summary)  # with 0, Ray starts a process for each block

    # All that asks the cluster happens within, to be watched.
    def decode() -> Iterator[tuple[list[Any], list[pa.Table]]]:
        pipeline = ray.data.from_arrow(shards).map_batches(
            DecodeEntries,
            fn_constructor_args=(preprocessing, decode_limits, source_limits, ("index",)),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(actors, len(shards))),
            num_cpus=1,
            **ray_quirks.BOUNDED_RESTARTS,
        )
        blocks = pipeline.materialize().to_arrow_refs()
        yield blocks, ray.get([summarize.remote(block) for block in blocks])

    with ray_quirks.plain_errors():
        watch = ray_quirks.NodeWatch(1, cpus=1)
        ((unordered, summaries),) = ray_quirks.watched(decode(), watch)
    # Blocks arrive as actors finish; the order of the images must not depend on that.
    order = sorted(range(len(unordered)), key=lambda block: summaries[block]["index"][0].as_py())
    blocks = tuple(unordered[block] for block in order)
    block_of = np.full(len(labelled.classes), -1, np.int32)
    row_of = np.zeros(len(labelled.classes), np.int32)
    rejected: list[tuple[str, str, str]] = []
    for number, summary in enumerate(summaries[block] for block in order):
        index = summary["index"].to_numpy()
        good = summary["error"].is_null().to_numpy(zero_copy_only=False)
        block_of[index[good]] = number
        row_of[index[good]] = np.flatnonzero(good)
        for row in np.flatnonzero(~good):
            uri = labelled.entries["uri"][int(index[row])].as_py()
            rejected.append(
                (uri, summary["error"][row].as_py(), summary["error_detail"][row].as_py())
            )
    decodable = used[block_of[used] >= 0]
    parts = labelled.parts[decodable]
    return DecodedImages(
        blocks=blocks,
        block_of=block_of,
        row_of=row_of,
        classes=labelled.classes,
        train=decodable[parts == "train"],
        validation=decodable[parts == "validation"],
        shape=(preprocessing.height, preprocessing.width, 3),
        rejected=tuple(sorted(rejected)),
    )


def _summary(block: pa.Table) -> pa.Table:
    return block.select(["index", "error", "error_detail"]).combine_chunks()


class PixelReader:
    """Reads images of any numbers from the object store, keeping the blocks used last.

    A block of this node's object store is read in place, without a copy.
    """

    def __init__(self, images: DecodedImages, max_blocks: int) -> None:
        self._images = images
        self._max_blocks = max_blocks
        self._cache: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels (n, H, W, 3) of the images with these numbers."""
        pixels = np.empty((len(numbers), *self._images.shape), np.uint8)
        for target, number in enumerate(numbers):
            block = self._block(int(self._images.block_of[number]))
            pixels[target] = block[self._images.row_of[number]]
        return pixels

    def _block(self, number: int) -> NDArray[np.uint8]:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        import ray

        block = as_pixels(ray.get(self._images.blocks[number])["pixels"], self._images.shape)
        self._cache[number] = block
        if len(self._cache) > self._max_blocks:
            self._cache.popitem(last=False)
        return block


@dataclass(frozen=True)
class Batch:
    """One worker's slice of a global batch.

    Attributes:
        numbers: the images, int64 (slice,).
        weights: 1 for an image, 0 for padding, float32 (slice,).
        total: images in the global batch.
        place: of the global batch in the endless order of training, from 0.
        first: place of the slice in the global batch.
    """

    numbers: NDArray[np.int64]
    weights: NDArray[np.float32]
    total: int
    place: int
    first: int

    def uniforms(self, seed: int, batch_size: int, count: int) -> NDArray[np.float32]:
        """Random numbers in [0, 1) for the slice, float32 (slice, count).

        They belong to the image's place in the order of training, whoever trains on it.
        """
        random = np.random.default_rng([seed, _UNIFORMS_STREAM, self.place])
        numbers = random.random((batch_size + len(self.numbers), count), np.float32)
        return numbers[self.first : self.first + len(self.numbers)]


_UNIFORMS_STREAM = 2**32  # apart from the streams that shuffle the passes


def shuffled_passes(
    images: DecodedImages, seed: int, window_images: int
) -> Iterator[NDArray[np.int64]]:
    """Endless numbers of the training images, each once a pass, every pass in a new order.

    Where there are more images than `window_images`, blocks are shuffled first, and images within
    windows of blocks: the object store may spill what a window does not need.

    Yields:
        int64 arrays, a window each.
    """
    block_of = images.block_of[images.train]
    blocks, sizes = np.unique(block_of, return_counts=True)
    by_block = images.train[np.argsort(block_of, kind="stable")]
    members = dict(zip(blocks.tolist(), np.split(by_block, np.cumsum(sizes)[:-1]), strict=True))
    number = 0
    while True:
        random = np.random.default_rng([seed, number])
        window: list[NDArray[np.int64]] = []
        for block in random.permutation(blocks).tolist():
            if window and sum(map(len, window)) + len(members[block]) > window_images:
                yield random.permutation(np.concatenate(window))
                window = []
            window.append(members[block])
        yield random.permutation(np.concatenate(window))
        number += 1


def training_batches(
    windows: Iterator[NDArray[np.int64]], batch_size: int, worker: int, workers: int
) -> Iterator[Batch]:
    """Endless full batches: one runs over the end of a pass into the next, so none is ever short."""
    rest = np.empty(0, np.int64)
    place = 0
    for window in windows:
        rest = np.concatenate([rest, window])
        while len(rest) >= batch_size:
            yield _slice(rest[:batch_size], batch_size, worker, workers, place)
            rest = rest[batch_size:]
            place += 1


def validation_batches(
    numbers: NDArray[np.int64], batch_size: int, steps: int | None, worker: int, workers: int
) -> Iterator[Batch]:
    """Every image once in order, or `steps` full batches, from the beginning again where it ends."""
    if steps is not None:
        numbers = np.resize(numbers, steps * batch_size)
    for place, start in enumerate(range(0, len(numbers), batch_size)):
        yield _slice(numbers[start : start + batch_size], batch_size, worker, workers, place)


def _slice(
    batch: NDArray[np.int64], batch_size: int, worker: int, workers: int, place: int
) -> Batch:
    """A worker's share, padded so that every step of every worker has one shape."""
    shares = np.array_split(batch, workers)
    share, first = shares[worker], sum(map(len, shares[:worker]))
    width = -(-batch_size // workers)
    weights = np.zeros(width, np.float32)
    weights[: len(share)] = 1
    padding = np.full(width - len(share), batch[0])
    return Batch(np.concatenate([share, padding]), weights, len(batch), place, first)
