"""The features of a frozen network, computed once and used in all epochs.

If only the last layer is trained and no image is changed, the rest of the network gives the same
features for an image in every epoch. Each worker computes those of its share of the blocks, and an
actor beside the driver keeps them, so a restarted worker finds the finished ones.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from catdog.ahead import read_ahead
from catdog.pixels import as_pixels
from catdog.runtime import tensorflow_quirks
from catdog.training.lost_blocks import Fetch
from catdog.training.network import step_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from catdog.training.data import DecodedImages

_BATCH_IMAGES = 32
_POLL_S = 0.2


class FeatureStore:
    """Features by the number of their block; lives in an actor that outlives the workers."""

    def __init__(self) -> None:
        self._blocks: dict[int, Any] = {}

    def keep(self, number: int, features: NDArray[np.float32]) -> None:
        """Keep those of a block, float32 (images, features)."""
        import ray

        self._blocks[number] = ray.put(features)

    def node(self) -> str:
        """Id of the node where they lie."""
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        return node

    def blocks(self) -> dict[int, Any]:
        """References of what is there."""
        return self._blocks


def of_images(
    images: DecodedImages, trunk: Any, store: Any, worker: int, workers: int
) -> DecodedImages:
    """The same images with features in place of pixels, once all workers have computed theirs.

    Args:
        images: decoded.
        trunk: a Keras model from pixels to features.
        store: a handle of the actor of `FeatureStore`.
        worker: number of this one, from 0.
        workers: how many compute.
    """
    import ray

    features_of = _batched(trunk)
    with step_limit() as begin_step:
        done = ray.get(store.blocks.remote())
        lacking = [each for each in range(worker, len(images.blocks), workers) if each not in done]
        with read_ahead(_tables(images, lacking), 1, name="catdog-blocks") as tables:
            for number, table in zip(lacking, cast("Iterator[pa.Table]", tables), strict=True):
                features = features_of(as_pixels(table["pixels"], images.shape))
                ray.get(store.keep.remote(number, features))
                begin_step()
        while len(ready := ray.get(store.blocks.remote())) < len(images.blocks):
            if len(ready) > len(done):
                done = ready
                begin_step()
            time.sleep(_POLL_S)
    blocks = tuple(ready[number] for number in range(len(images.blocks)))
    return dataclasses.replace(
        images,
        blocks=blocks,
        block_nodes=(ray.get(store.node.remote()),) * len(blocks),
        shape=tuple(trunk.output_shape[1:]),
        decoder=None,
        origins={},
    )


def _tables(images: DecodedImages, blocks: list[int]) -> Iterator[pa.Table]:
    """Tables of pictures, decoded now if they are not."""
    fetch = Fetch(images.origins)
    decode = images.decoder and images.decoder.again()
    for number in blocks:
        table = fetch(images.blocks[number])
        yield decode(table) if decode else table


def _batched(trunk: Any) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    import tensorflow as tf

    compute = tensorflow_quirks.traced(
        lambda pixels: tf.cast(trunk(pixels, training=False), tf.float32), reduce_retracing=True
    )

    def features_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = [
            compute(tf.constant(pixels[start : start + _BATCH_IMAGES])).numpy()
            for start in range(0, max(1, len(pixels)), _BATCH_IMAGES)
        ]
        return np.concatenate(found)

    return features_of
