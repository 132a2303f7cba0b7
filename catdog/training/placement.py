"""Which worker computes which image: the one whose block it is of, as long as the shapes come out even.

The sum of the gradients does not ask who computed which image. So each block belongs to a worker, lies
on its node, and an image crosses the network only where a worker's blocks have more of a batch than
it takes. Whose a block is follows from the number of workers alone: with the nodes, or with who
decoded it, the rounding of the sums would change, and a disturbed run would not end to the bit as an
undisturbed one does.
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
    """Whose each block is, and where the workers are.

    Attributes:
        worker_of: worker of each block, int32 (blocks,).
        nodes: Ray's id of each worker's node.
    """

    worker_of: NDArray[np.int32]
    nodes: tuple[str, ...]


def placed(
    blocks: int, trained_blocks: NDArray[np.integer], worker_nodes: Sequence[str]
) -> Placement:
    """Deal the blocks out to the workers, those to train on by themselves.

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
    """Divide images among workers, each at most `most`; as few go to another than theirs as that allows.

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
