"""Finds nearest vectors: by all pairs up to some number, by an index of faiss beyond."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.errors import UserInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALL_PAIRS = 50_000  # vectors, up to which an index saves little
_WITHOUT_INDEX = 250_000  # beyond, all pairs take hours
_SAMPLE = 50_000  # vectors that directions and cells are learned from
_DIRECTIONS = 128
_BLOCK = 1024
_CELLS_LOOKED_AT = 12


def spread(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Whiten vectors, so that they vary equally in every direction, and scale them to length 1.

    A classifier's embeddings vary mostly along the direction that separates its classes, so the cosine
    of two different cats is large. After whitening, it is large for two pictures of one scene.
    """
    random = np.random.default_rng(0)
    n, size = vectors.shape
    picked = random.choice(n, _SAMPLE, replace=False) if n > _SAMPLE else np.arange(n)
    sample = vectors[np.sort(picked)].astype(np.float32)
    mean = sample.mean(axis=0)
    covariance = np.cov(sample.T, bias=True).reshape(size, size)
    values, directions = np.linalg.eigh(covariance)
    # Of few vectors the least directions are noise: they are widened less.
    floor = values.sum() / size * max(0.01, min(1.0, size / n)) + 1e-12
    kept = directions[:, -_DIRECTIONS:] / np.sqrt(values[-_DIRECTIONS:].clip(0) + floor)
    changed = np.empty((n, kept.shape[1]), np.float32)
    for start in range(0, n, _SAMPLE):
        part = slice(start, start + _SAMPLE)
        changed[part] = (vectors[part].astype(np.float32) - mean) @ kept
    lengths = np.linalg.norm(changed, axis=1, keepdims=True)
    spread_out: NDArray[np.float32] = changed / np.maximum(lengths, 1e-12)
    return spread_out


def nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest vectors of each query.

    Args:
        vectors: (n, size), each of length 1.
        queries: (q, size), each of length 1.
        count: number of vectors per query; fewer if there are no more.

    Returns:
        Cosines, the largest first, and numbers of vectors, both (q, count).

    Raises:
        UserInputError: there are too many without an index, and faiss is not installed.
    """
    count = min(count, len(vectors))
    if len(vectors) <= _ALL_PAIRS or len(queries) < _BLOCK:
        return _of_all(vectors, queries, count)
    if importlib.util.find_spec("faiss") is not None:
        return _of_index(vectors, queries, count)
    if len(vectors) > _WITHOUT_INDEX:
        raise UserInputError(
            f"{len(vectors):,} images are too many to compare all pairs; "
            "`pip install 'catdog-ray[similar]'` brings an index"
        )
    return _of_all(vectors, queries, count)


def _of_all(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    cosines = np.empty((len(queries), count), np.float32)
    numbers = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        products = queries[part] @ vectors.T
        best = np.argpartition(-products, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(products, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        numbers[part] = np.take_along_axis(best, order, axis=1)
        cosines[part] = np.take_along_axis(found, order, axis=1)
    return cosines, numbers


def _of_index(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    n, size = vectors.shape
    cells = int(2 * np.sqrt(n))
    cosine = faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, cells, cosine)
    step = max(1, n // (64 * cells))
    index.train(np.ascontiguousarray(vectors[::step]))
    index.add(vectors)
    index.nprobe = _CELLS_LOOKED_AT
    cosines, numbers = index.search(queries, count)
    # Where its cells hold fewer, the nearest stands for what is missing.
    return cosines, np.where(numbers < 0, numbers[:, :1], numbers).clip(0)
