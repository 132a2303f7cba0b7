"""Images for training, decoded and in the object store, and the order in which they are read.

The order of an epoch depends only on the seed, never on the number of workers: every worker computes
the same global batches and takes its share of each, by `placement`. So N workers see the same images
as one, no image is dropped if the numbers do not divide, and no worker can starve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.training.placement import shares

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from catdog.training.block_decoder import BlockDecoder
    from catdog.training.lost_blocks import Origin
    from catdog.training.placement import Placement


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images in Ray's object store; small itself, so it travels to every worker.

    Attributes:
        blocks: references of the tables that `DecodeEntries` made; or of float32 arrays (images,
            features), where `features` made them; or of tables of entries, where there is a
            `decoder`.
        block_nodes: ids of the nodes where they were made; empty where there is a `decoder`.
        block_of, row_of: where image i lies, int32 (n,).
        classes: class number of image i, int32 (n,).
        train, validation: which images belong to the parts, int64.
        shape: height, width, 3; or the number of features.
        window_images: how many images are shuffled together; see `shuffled_passes`.
        rejected: URI, reason and sentence of what could not be decoded.
        targets: a reference of what is learned of image i where it is not its class alone, float32
            (n, classes), as `teacher.targets` gives it; or None.
        decoder: makes a table of pictures of a table of entries, whenever it is read; None where
            that is done.
        origins: what tables of pictures were made of, by their references.
    """

    blocks: tuple[Any, ...]
    block_nodes: tuple[str, ...]
    block_of: NDArray[np.int32]
    row_of: NDArray[np.int32]
    classes: NDArray[np.int32]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    shape: tuple[int, ...]
    window_images: int
    rejected: tuple[tuple[str, str, str], ...]
    targets: Any = None
    decoder: BlockDecoder | None = None
    origins: dict[Any, Origin] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch.

    Attributes:
        numbers: the images, int64 (share,).
        weights: 1 for an image, 0 for padding, float32 (share,).
        total: images in the global batch.
        place: of the global batch in the endless order of training, from 0.
        places: of the images in the global batch, int64 (share,).
    """

    numbers: NDArray[np.int64]
    weights: NDArray[np.float32]
    total: int
    place: int
    places: NDArray[np.int64]

    def uniforms(self, seed: int, batch_size: int, count: int) -> NDArray[np.float32]:
        """Random numbers in [0, 1) for the share, float32 (share, count).

        They belong to the image's place in the order of training, whichever worker trains on it.
        """
        random = np.random.default_rng([seed, _UNIFORMS_STREAM, self.place])
        return random.random((batch_size, count), np.float32)[self.places]


_UNIFORMS_STREAM = 2**32  # apart from the streams that shuffle the passes
_VALIDATION_STREAM = 2**33


def shuffled_passes(
    images: DecodedImages, seed: int, window_images: int
) -> Iterator[NDArray[np.int64]]:
    """An endless stream of image numbers: every pass has each training image once, in a new order.

    If there are more images than `window_images`, blocks are shuffled first, then images within
    windows of blocks, so that the object store may spill blocks outside of the window.

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
    images: DecodedImages,
    windows: Iterator[NDArray[np.int64]],
    batch_size: int,
    worker: int,
    placement: Placement,
) -> Iterator[Batch]:
    """Endless full batches: one runs over the end of a pass into the next, so none is ever short."""
    workers = len(placement.nodes)
    width = -(-batch_size // workers)
    rest = np.empty(0, np.int64)
    place = 0
    for window in windows:
        rest = np.concatenate([rest, window])
        while len(rest) >= batch_size:
            batch, rest = rest[:batch_size], rest[batch_size:]
            owners = placement.worker_of[images.block_of[batch]]
            places = shares(owners, workers, width)[worker]
            # Batch normalisation sees padding, too: it must be the same for any placement.
            yield _padded(batch, places, width, batch_size, place, padding=0)
            place += 1


def validation_batches(
    images: DecodedImages,
    batch_size: int,
    steps: int | None,
    seed: int,
    worker: int,
    placement: Placement,
) -> Iterator[Batch]:
    """Every validation image once, or `steps` full batches, which start over at the end of the images.

    The result does not depend on the order: each worker takes its own blocks, one after another.
    """
    numbers, workers = images.validation, len(placement.nodes)
    if steps is not None:  # of all classes, which the list has one after another
        order = np.random.default_rng([seed, _VALIDATION_STREAM]).permutation(numbers)
        numbers = np.sort(np.resize(order, steps * batch_size))
    width = -(-batch_size // workers)
    owners = placement.worker_of[images.block_of[numbers]]
    taken = shares(owners, workers, -(-len(numbers) // workers))
    for place, start in enumerate(range(0, max(map(len, taken)), width)):
        together = [places[start : start + width] for places in taken]
        mine = together[worker]
        padding = int(taken[worker][0]) if len(taken[worker]) else 0
        total = sum(map(len, together))
        yield _padded(numbers, mine, width, total, place, padding=padding)


def _padded(
    numbers: NDArray[np.int64],
    places: NDArray[np.int64],
    width: int,
    total: int,
    place: int,
    *,
    padding: int,
) -> Batch:
    """A worker's share of `numbers`, padded so that every step of every worker has one shape."""
    weights = np.zeros(width, np.float32)
    weights[: len(places)] = 1
    places = np.concatenate([places, np.full(width - len(places), padding, np.int64)])
    return Batch(numbers[places], weights, total, place, places)
