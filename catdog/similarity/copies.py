"""Finds pairs of images that show one picture: by near embeddings, then by their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catdog.errors import counted
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
    observer.phase(f"comparing {counted(len(collection), 'embedding')}")
    ones, others = _candidates(collection.vectors, first)
    observer.phase(f"comparing the pictures of {counted(len(ones), 'pair')}")
    same = _equal(collection, ones, others)
    rest, unread = _worth_a_look(collection, ones, others, np.flatnonzero(~same), observer)
    alike = same.copy()
    for start in range(0, len(rest), _AT_ONCE):
        part = rest[start : start + _AT_ONCE]
        alike[part] = _look(collection, ones[part], others[part])
    return Pairs(ones[alike], others[alike], same[alike], unread)


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
    ones, others = np.concatenate(pairs, axis=1)
    codes = np.unique(ones * len(vectors) + others)
    return codes // len(vectors), codes % len(vectors)


def _equal(
    collection: Collection, ones: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which pairs are equal byte for byte."""
    same: NDArray[np.bool_] = collection.sizes[ones] == collection.sizes[others]
    found = pictures.digests(collection, np.unique(np.concatenate([ones[same], others[same]])))
    for pair in np.flatnonzero(same).tolist():
        one = found.get(int(ones[pair]))
        same[pair] = one is not None and one == found.get(int(others[pair]))
    return same


def _worth_a_look(
    collection: Collection,
    ones: NDArray[np.int64],
    others: NDArray[np.int64],
    pairs: NDArray[np.int64],
    observer: Observer,
) -> tuple[NDArray[np.int64], int]:
    """The pairs whose sketches are alike, and how many images could not be read.

    Each image is decoded once, although it may be in many pairs, and only its sketch is kept.
    """
    images = np.unique(np.concatenate([ones[pairs], others[pairs]]))
    found, good = pictures.sketches(collection, images, observer)
    kept = []
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        places = [np.searchsorted(images, each[part]) for each in (ones, others)]
        both = good[places[0]] & good[places[1]]
        kept.append(part[both & looks.may_be_alike(found[places[0]], found[places[1]])])
    return np.concatenate([*kept, np.zeros(0, np.int64)]), int((~good).sum())


def _look(
    collection: Collection, ones: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which pairs look alike."""
    images = np.unique(np.concatenate([ones, others]))
    grey = pictures.grey(collection, images)
    places = [np.searchsorted(images, each) for each in (ones, others)]
    return looks.likeness(grey[places[0]], grey[places[1]]) >= looks.ALIKE
