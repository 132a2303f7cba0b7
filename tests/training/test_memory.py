"""A worker reads its pictures where they lie: in the object store, once for all workers of a node."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catdog.training import data, placement, reader

pytestmark = pytest.mark.slow

BLOCKS, BLOCK_IMAGES, SIDE = 16, 128, 128


def test_a_worker_keeps_no_copies_of_pictures(ray_cluster):
    """All blocks are read and kept: a hundred megabytes, of which none is the worker's own."""
    import ray

    def own_bytes():
        """Memory that no other process shares (Linux)."""
        with open("/proc/self/status") as file:
            (line,) = [line for line in file if line.startswith("RssAnon")]
        return int(line.split()[1]) * 1024

    def read_all(images):
        """Read every image as a training worker does; how much memory is its own then."""
        here = placement.placed(BLOCKS, images.block_of, ["here"])
        kept = reader.PixelReader(
            images, len(images.validation), here, 0, reader.Lenders("group", images, 4)
        )
        batches = data.validation_batches(images, 32, None, 0, 0, here)
        kept.read(images.validation[:1], [])  # what Ray and Arrow want for themselves
        before = own_bytes()
        seen = sum(int(batch[0][:, 0, 0, 0].sum()) for batch in reader.read(kept, batches))
        return own_bytes() - before, seen

    picture_bytes = SIDE * SIDE * 3
    blocks = []
    for number in range(BLOCKS):
        pixels = np.full((BLOCK_IMAGES, picture_bytes), number, np.uint8)
        values = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(picture_bytes), BLOCK_IMAGES, [None, pa.py_buffer(pixels)]
        )
        blocks.append(ray.put(pa.table({"pixels": values})))
    numbers = np.arange(BLOCKS * BLOCK_IMAGES)
    images = data.DecodedImages(
        blocks=tuple(blocks),
        block_nodes=("here",) * BLOCKS,
        block_of=(numbers // BLOCK_IMAGES).astype(np.int32),
        row_of=(numbers % BLOCK_IMAGES).astype(np.int32),
        classes=np.zeros(len(numbers), np.int32),
        train=numbers[:0],
        validation=numbers,
        shape=(SIDE, SIDE, 3),
        window_images=len(numbers),
        rejected=(),
    )
    grown, seen = ray.get(ray.remote(num_cpus=1)(read_all).remote(images))
    assert seen == sum(range(BLOCKS)) * BLOCK_IMAGES
    assert grown < len(numbers) * picture_bytes / 4
