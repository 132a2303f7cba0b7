"""Compares pictures: the same one may be smaller, slightly cropped, saved again or mirrored."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 48  # of the grey pictures that are compared
ALIKE = 0.95
"""Likeness of two pictures that count as one. Of photos that were made smaller, saved again, mirrored
or cropped by 5 %, none had less than 0.98; of random pairs none more than 0.77 (docs/duplicates.md)."""
_SKETCH_SIDE = 6  # of a sketch, by which most pairs that differ are told apart
_MAYBE = 0.7  # the correlation of two sketches below which nobody looks closer
_FINE = 24
_FLAT_LEVELS = 3.0  # standard deviation, of 255; empty pictures look alike and are none the same
_AT_ONCE = 128
# Of one axis, where the part that may be the other picture begins and ends: up to 5 % off each edge.
_WINDOWS = tuple(itertools.product((0, 0.025, 0.05), (1, 0.975, 0.95)))


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey pictures (n, H, W) of pixels (n, H, W, 3)."""
    levels = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(levels).astype(np.uint8)


def sketches(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Sketches (n, 6, 6) of grey pictures (n, SIDE, SIDE), for `may_be_alike`.

    The sketch of an empty picture is like no other.
    """
    step = SIDE // _SKETCH_SIDE
    blocks = pictures.reshape(len(pictures), _SKETCH_SIDE, step, _SKETCH_SIDE, step)
    found = _normalised(blocks.mean(axis=(2, 4), dtype=np.float32))
    found[pictures.std(axis=(1, 2)) < _FLAT_LEVELS] = 0
    return found


def may_be_alike(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a closer look is worth it, from the sketches (n, 6, 6) of each pair's pictures."""
    direct, mirrored = (np.einsum("nyx,nyx->n", each, others) for each in (ones, ones[:, :, ::-1]))
    return np.asarray(np.maximum(direct, mirrored) >= _MAYBE)


def likeness(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How alike each pair of pictures looks: the best correlation, -1 to 1.

    Each picture is compared with parts of the other one, mirrored or not. It is meant for pairs that
    `may_be_alike`: it takes far longer.

    Args:
        ones: grey pictures, (n, SIDE, SIDE).
        others: grey pictures, (n, SIDE, SIDE).
    """
    best = np.empty(len(ones), np.float32)
    for start in range(0, len(ones), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        best[part] = _of_parts(ones[part], others[part])
    return best


def _of_parts(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float32]:
    one, other = _parts(ones), _parts(others)
    found = [
        np.einsum("nyx,nwyx->nw", picture, parts)
        for whole, parts in ((one[:, 0], other), (other[:, 0], one))
        for picture in (whole, whole[:, :, ::-1])
    ]
    return np.asarray(np.concatenate(found, axis=1).max(axis=1), np.float32)


def _parts(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Every part of each picture, the whole one first: (n, parts, _FINE, _FINE)."""
    resample = _resampling()
    cut = np.einsum("asy,nyx->nasx", resample, pictures.astype(np.float32))
    cut = np.einsum("nasx,btx->nabst", cut, resample)
    return _normalised(cut.reshape(len(pictures), -1, _FINE, _FINE))


def _normalised(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of mean 0 and length 1, over the last two axes."""
    centred = pictures - pictures.mean(axis=(-2, -1), keepdims=True)
    lengths = np.linalg.norm(centred, axis=(-2, -1), keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-6), np.float32)


@functools.cache
def _resampling() -> Any:
    """Averages over the pixels under `_FINE` equal stretches of each window, (windows, _FINE, SIDE)."""
    weights = np.zeros((len(_WINDOWS), _FINE, SIDE), np.float32)
    pixels = np.arange(SIDE)
    for number, (start, end) in enumerate(_WINDOWS):
        edges = np.linspace(start * SIDE, end * SIDE, _FINE + 1)
        for place in range(_FINE):
            low, high = edges[place : place + 2]
            covered = np.clip(np.minimum(pixels + 1, high) - np.maximum(pixels, low), 0, None)
            weights[number, place] = covered / covered.sum()
    return weights
