"""Images for training, decoded and in the object store, and the order in which they are read.

The order of an epoch is a function of the seed alone and never of the number of workers: every
worker computes the same global batches and takes its slice of each. So N workers see what one
would see, nothing is dropped where the numbers do not divide, and no worker can starve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images in Ray's object store; small itself, so it travels to every worker.

    Attributes:
        blocks: references of the tables that `DecodeEntries` made; or of float32 arrays (images,
            features), where `features` made them.
        block_of, row_of: where image i lies, int32 (n,).
        classes: class number of image i, int32 (n,).
        train, validation: which images belong to the parts, int64.
        shape: height, width, 3; or the number of features.
        window_images: how many images are shuffled together; see `shuffled_passes`.
        rejected: URI, reason and sentence of what could not be decoded.
    """

    blocks: tuple[Any, ...]
    block_of: NDArray[np.int32]
    row_of: NDArray[np.int32]
    classes: NDArray[np.int32]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    shape: tuple[int, ...]
    window_images: int
    rejected: tuple[tuple[str, str, str], ...]


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
