"""Which worker computes which image: the owner of its block, as long as the shapes come out even.

The sum of the gradients does not depend on who computed which image. So each block belongs to a worker
and lies on its node, and an image crosses the network only if the blocks of its owner have more images
of a batch than one worker takes. The owner follows from the number of workers only. If it followed from
the nodes, or from who decoded the block, the rounding of the sums would change, and a disturbed run
would not end to the bit as an undisturbed one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Placement:
    """The owner of each block, and the workers' nodes.

    Attributes:
        worker_of: worker of each block, int32 (blocks,).
        nodes: Ray's id of each worker's node.
    """

    worker_of: NDArray[np.int32]
    nodes: tuple[str, ...]


def placed(
    blocks: int, trained_blocks: NDArray[np.integer], worker_nodes: Sequence[str]
) -> Placement:
    """Deal the blocks out to the workers, training blocks separately.

    Args:
        blocks: how many there are.
        trained_blocks: numbers of those with images to train on; any order, also several times.
        worker_nodes: id of each worker's node.
    """
    trained = np.unique(trained_blocks)
    workers = len(worker_nodes)
    worker_of = np.empty(blocks, np.int32)
    random = np.random.default_rng(workers)
    for part in (trained, np.setdiff1d(np.arange(blocks), trained)):
        worker_of[random.permutation(part)] = np.arange(len(part)) % workers
    return Placement(worker_of, tuple(worker_nodes))


def shares(owners: NDArray[np.int32], workers: int, most: int) -> list[NDArray[np.int64]]:
    """Divide images among workers, at most `most` each; as few as possible leave their owner.

    Args:
        owners: worker of each image, (n,), n at most `most` times `workers`.
        workers: how many there are.
        most: images that a worker takes.

    Returns:
        For each worker the places of its images among the n, in order.
    """
    own = [np.flatnonzero(owners == worker) for worker in range(workers)]
    left_over = np.concatenate([places[most:] for places in own])
    taken = []
    for places in own:
        fill = max(0, most - len(places))
        taken.append(np.sort(np.concatenate([places[:most], left_over[:fill]])))
        left_over = left_over[fill:]
    return taken
