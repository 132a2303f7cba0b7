"""Batches as arrays: pixels out of the object store, the next ones read while one is computed."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from catdog.ahead import read_ahead
from catdog.pixels import as_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from catdog.training.data import Batch, DecodedImages

_BATCHES_AHEAD = 4
_LEAST_BLOCKS = 4


class PixelReader:
    """Reads images of any numbers from the object store, keeping the blocks used last.

    A block of this node's object store is read in place, without a copy: what is kept stays in the
    store, for all workers of the node.

    Args:
        images: what there is.
        kept_images: blocks are kept as long as they hold no more images than that.
    """

    def __init__(self, images: DecodedImages, kept_images: int) -> None:
        self._images = images
        per_block = len(images.block_of) / max(1, len(images.blocks))
        self._max_blocks = max(_LEAST_BLOCKS, int(kept_images / max(1.0, per_block)))
        self._cache: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def read(self, numbers: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Pixels (n, H, W, 3), or features (n, k), and class numbers (n,) of these images."""
        rows = [
            self._block(int(self._images.block_of[number]))[self._images.row_of[number]]
            for number in numbers
        ]
        return np.stack(rows), self._images.classes[numbers]

    def _block(self, number: int) -> NDArray[Any]:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        import ray

        found = ray.get(self._images.blocks[number])
        features = isinstance(found, np.ndarray)
        block: NDArray[Any] = found if features else as_pixels(found["pixels"], self._images.shape)
        self._cache[number] = block
        if len(self._cache) > self._max_blocks:
            self._cache.popitem(last=False)
        return block


def read(
    reader: PixelReader,
    batches: Iterable[Batch],
    randomness: Callable[[Batch], NDArray[np.float32]] | None = None,
) -> Generator[tuple[Any, ...], None, None]:
    """Batches as arrays, read ahead by a thread that ends with the generator.

    Yields:
        pixels uint8 (slice, H, W, 3) or features float32 (slice, k), classes int32 (slice,), weights
        float32 (slice,), images in the global batch, random numbers float32 (slice, k) where
        `randomness` gives them.
    """

    def arrays() -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            pixels, classes = reader.read(batch.numbers)
            random = (randomness(batch),) if randomness else ()
            yield pixels, classes, batch.weights, np.float32(batch.total), *random

    with read_ahead(arrays(), _BATCHES_AHEAD, name="catdog-batches") as ahead:
        yield from cast("Iterator[tuple[Any, ...]]", ahead)  # none of them is `NothingYet`
