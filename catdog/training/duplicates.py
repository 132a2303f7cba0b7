"""Copies of pictures, kept on one side of the split between training and validation.

A network that has seen a picture knows its copy, so copies across the split make the accuracy look
better than it is. Equal pictures have equal decoded pixels; similar ones (saved again, made smaller)
have nearly the same small grey thumbnail.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

THUMBNAIL_SIDE = 8
# Root mean square, of 255. Photos of 160x160 that were saved again with JPEG quality 30 or at half the
# size changed by 1.1 at most; among 8,000 chosen photos, no two different ones were nearer than 8.
_ALIKE_LEVELS = 3.0
_FLAT_LEVELS = 6.0  # standard deviation; empty pictures look alike, but are not copies
_NEIGHBOURS = 8  # each picture's nearest ones: enough to hold a group together
_MOST_IMAGES = 500_000  # that are compared for likeness: the search takes 0.6 kB for each


class Fingerprints(NamedTuple):
    """Fingerprints of pictures.

    Attributes:
        digests: of the pixels, uint64 (n,).
        thumbnails: grey, uint8 (n, 64).
    """

    digests: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]


class Regrouped(NamedTuple):
    """Parts with all copies on one side.

    Attributes:
        parts: of each picture, (n,), as they were given but for `moved`.
        exact: pictures with an equal one on the other side, before.
        alike: pictures with one that is not equal and looks the same on the other side, before.
        moved: pictures that are in another part now.
    """

    parts: NDArray[np.int8]
    exact: int
    alike: int
    moved: int


def fingerprints(pixels: NDArray[np.uint8]) -> Fingerprints:
    """Of pictures (n, H, W, 3)."""
    digests = [hashlib.blake2b(each.tobytes(), digest_size=8).digest() for each in pixels]
    n, height, width, _ = pixels.shape
    rows = np.linspace(0, height, THUMBNAIL_SIDE + 1).astype(int)[:-1]
    columns = np.linspace(0, width, THUMBNAIL_SIDE + 1).astype(int)[:-1]
    thumbnails = np.zeros((n, THUMBNAIL_SIDE**2), np.uint8)
    if n and min(height, width) >= THUMBNAIL_SIDE:
        area = np.add.reduceat(np.ones((height, 1)), rows) * np.add.reduceat(
            np.ones((1, width)), columns, axis=1
        )
        for number, picture in enumerate(pixels):  # one at a time: a block's floats are large
            sums = np.add.reduceat(picture.sum(axis=2, dtype=np.float32), rows, axis=0)
            sums = np.add.reduceat(sums, columns, axis=1)
            thumbnails[number] = np.rint(sums / (3 * area)).ravel()
    return Fingerprints(np.frombuffer(b"".join(digests), np.uint64), thumbnails)


def regroup(
    found: Fingerprints,
    parts: NDArray[np.int8],
    names_of: Callable[[NDArray[np.int64]], list[str]],
    *,
    move: bool,
) -> Regrouped:
    """Move each group of copies on both sides to one side.

    The member whose name comes first decides the side. So a group of ten falls to validation as
    seldom as a single picture, and the result does not depend on any order.

    Args:
        found: of the pictures.
        parts: of each, (n,).
        names_of: names of some pictures, given their numbers.
        move: whether to move them, or only to count them.
    """
    exact = _equal_groups(found.digests)
    alike = _alike_groups(found.thumbnails, exact)
    divided = _divided(alike, parts)
    counts = int(_divided(exact, parts).sum())
    moved_to = parts.copy()
    if move:
        members = np.flatnonzero(divided)
        names = dict(zip(members.tolist(), names_of(members), strict=True))
        members = members[np.argsort(alike[members], kind="stable")]
        edges = np.flatnonzero(np.diff(alike[members])) + 1
        for group in np.split(members, edges):
            if len(group):
                first = min(group.tolist(), key=names.__getitem__)
                moved_to[group] = parts[first]
    return Regrouped(moved_to, counts, int(divided.sum()) - counts, int((moved_to != parts).sum()))


def _divided(groups: NDArray[np.int64], parts: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which pictures belong to a group with members in more than one part."""
    if not len(groups):
        return np.zeros(0, np.bool_)
    least = np.full(groups.max() + 1, 127, np.int8)
    most = np.zeros(groups.max() + 1, np.int8)
    np.minimum.at(least, groups, parts)
    np.maximum.at(most, groups, parts)
    divided: NDArray[np.bool_] = (least != most)[groups]
    return divided


def _equal_groups(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.unique(digests, return_inverse=True)[1].astype(np.int64)


def _alike_groups(thumbnails: NDArray[np.uint8], exact: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of the pictures that are equal or look the same, (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    _, firsts = np.unique(exact, return_index=True)  # one of each group of equal ones
    candidates = firsts[thumbnails[firsts].std(axis=1) >= _FLAT_LEVELS]
    if not 2 <= len(candidates) <= _MOST_IMAGES:
        return exact
    points = thumbnails[candidates].astype(np.float64)
    distances, neighbours = cKDTree(points).query(
        points,
        k=min(_NEIGHBOURS, len(points)),
        distance_upper_bound=_ALIKE_LEVELS * THUMBNAIL_SIDE,
    )
    near = np.isfinite(distances)
    one = exact[candidates[np.nonzero(near)[0]]]
    other = exact[candidates[neighbours[near]]]
    size = exact.max() + 1
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(size, size))
    groups = connected_components(graph, directed=False)[1]
    joined: NDArray[np.int64] = groups[exact].astype(np.int64)
    return joined
