"""Finds pairs of images that show one picture: by near embeddings, then by their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catdog.similarity import looks, neighbours, pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catdog.observer import Observer
    from catdog.similarity.collection import Collection

NEIGHBOURS = 6  # of each image that may be its copies; a chain of copies holds together by them
_AT_ONCE = 100_000  # pairs whose pictures are held


@dataclass(frozen=True)
class Pairs:
    """Pairs of images that show one picture.

    Attributes:
        ones: numbers of the first images, int64 (n,).
        others: numbers of the second images, int64 (n,).
        exact: whether the two files are equal byte for byte, bool (n,).
        unread: number of images that had to be compared but could not be read again.
    """

    ones: NDArray[np.int64]
    others: NDArray[np.int64]
    exact: NDArray[np.bool_]
    unread: int


def find(collection: Collection, observer: Observer, first: int = 0) -> Pairs:
    """The pairs of copies in a collection.

    Args:
        collection: images with embeddings.
        observer: is told about progress.
        first: if not 0, only pairs of an image below this number with one at or above it.
    """
    observer.phase(f"comparing {len(collection):,} embeddings")
    ones, others = _candidates(collection.vectors, first)
    kept_ones, kept_others, exact = [], [], []
    unread = 0
    for start in range(0, len(ones), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        observer.phase(f"looking at {min(start + _AT_ONCE, len(ones)):,} of {len(ones):,} pairs")
        same, alike, missing = _look(collection, ones[part], others[part])
        kept_ones.append(ones[part][alike])
        kept_others.append(others[part][alike])
        exact.append(same[alike])
        unread += missing
    if not kept_ones:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0, np.bool_), 0)
    return Pairs(
        np.concatenate(kept_ones), np.concatenate(kept_others), np.concatenate(exact), unread
    )


def _candidates(
    vectors: NDArray[np.float16], first: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of images whose embeddings are near, each once, the lower number first."""
    if len(vectors) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # Equal files have equal embeddings, and there may be thousands of one: they hang on the first.
    rows = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.shape[1] * 2))).ravel()
    _, firsts, groups = np.unique(rows, return_index=True, return_inverse=True)
    members = np.arange(len(vectors))
    heads = firsts[groups]
    pairs = [np.stack([heads, members])[:, heads != members]]
    space = neighbours.spread(vectors)
    if first:
        before, after = members[:first], members[first:]
        _, numbers = neighbours.nearest(space[:first], space[first:], NEIGHBOURS)
        pairs = [np.stack([before[numbers.ravel()], np.repeat(after, numbers.shape[1])])]
    else:
        firsts = np.sort(firsts)
        _, numbers = neighbours.nearest(space[firsts], space[firsts], NEIGHBOURS + 1)
        found = np.stack([np.repeat(firsts, numbers.shape[1]), firsts[numbers.ravel()]])
        pairs.append(np.sort(found, axis=0)[:, found[0] != found[1]])
    ones, others = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return ones, others


def _look(
    collection: Collection, ones: NDArray[np.int64], others: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Which pairs are equal byte for byte, which look alike, and how many images are unreadable."""
    equal_sizes = collection.sizes[ones] == collection.sizes[others]
    images = np.unique(np.concatenate([ones[equal_sizes], others[equal_sizes]]))
    found = pictures.digests(collection, images)
    same = equal_sizes.copy()
    for pair in np.flatnonzero(equal_sizes).tolist():
        one = found.get(int(ones[pair]))
        same[pair] = one is not None and one == found.get(int(others[pair]))
    alike = same.copy()
    rest = np.flatnonzero(~same)
    images = np.unique(np.concatenate([ones[rest], others[rest]]))
    grey, good = pictures.grey(collection, images)
    places = [np.searchsorted(images, each[rest]) for each in (ones, others)]
    close = looks.likeness(grey[places[0]], grey[places[1]]) >= looks.ALIKE
    alike[rest] = close & good[places[0]] & good[places[1]]
    return same, alike, int((~good).sum())
