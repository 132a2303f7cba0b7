"""Who computes which image: a worker where it is, and how much crosses the network all the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from catdog.training.data import DecodedImages, shuffled_passes
from catdog.training.placement import placed, shares

BLOCK_IMAGES = 256


@pytest.mark.parametrize("seed", range(20))
def test_only_the_surplus_moves(seed):
    """Each image once, nobody above the limit, and none moves from a worker that had room for it."""
    random = np.random.default_rng(seed)
    workers, most = int(random.integers(1, 7)), int(random.integers(1, 9))
    n = int(random.integers(0, most * workers + 1))
    owners = random.integers(0, workers, n).astype(np.int32)
    taken = shares(owners, workers, most)
    assert sorted(np.concatenate(taken)) == list(range(n))
    for worker, places in enumerate(taken):
        assert len(places) <= most
        assert (owners[places] == worker).sum() == min(most, (owners == worker).sum())


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_every_worker_owns_as_much_of_each_part(workers):
    """Blocks to train on and others are dealt out evenly; where the workers are, changes nothing."""
    trained = np.array([0, 1, 2, 3, 4, 5, 5, 6, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18])
    found = placed(20, trained, ["here"] * workers)
    elsewhere = placed(20, trained[::-1], [str(worker) for worker in range(workers)])
    assert found.worker_of.tolist() == elsewhere.worker_of.tolist()
    for part in (np.unique(trained), np.setdiff1d(np.arange(20), trained)):
        counts = np.bincount(found.worker_of[part], minlength=workers)
        assert counts.max() - counts.min() <= 1


def received(nodes: int, per_node: int, window_blocks: int, blocks_per_node: int) -> float:
    """Images that a node with one worker receives in an epoch, as a share of those it has."""
    blocks = nodes * blocks_per_node
    n = blocks * BLOCK_IMAGES
    numbers = np.arange(n)
    images = DecodedImages(
        blocks=tuple(range(blocks)),
        block_nodes=("node",) * blocks,
        block_of=(numbers // BLOCK_IMAGES).astype(np.int32),
        row_of=np.zeros(n, np.int32),
        classes=np.zeros(n, np.int32),
        train=numbers,
        validation=numbers[:0],
        shape=(1, 1, 3),
        window_images=window_blocks * BLOCK_IMAGES,
        rejected=(),
    )
    placement = placed(blocks, images.block_of, [str(node) for node in range(nodes)])
    batch_size = nodes * per_node
    stream = itertools.chain.from_iterable(shuffled_passes(images, 0, images.window_images))
    moved = 0
    for _ in range(n // batch_size):
        batch = np.fromiter(itertools.islice(stream, batch_size), np.int64)
        owners = placement.worker_of[images.block_of[batch]]
        for worker, places in enumerate(shares(owners, nodes, per_node)):
            moved += int((owners[places] != worker).sum())
    return moved / n


@pytest.mark.parametrize("per_node", [8, 64])
@pytest.mark.parametrize("nodes", [2, 3, 6, 16, 64])
def test_a_node_receives_little(nodes, per_node):
    """At most 0.3 of its own share in an epoch, with 8 or 64 images a node and step.

    A window has 400 blocks: a quarter of an object store of 32 GB at 160x160. Contiguous slices of the
    batches would have each node receive all that it does not have: nodes - 1 shares.
    """
    assert 0 < received(nodes, per_node, window_blocks=400, blocks_per_node=60) <= 0.3
