"""Copies of a picture lie on one side of the split between training and validation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from catdog.training import duplicates

TRAIN, VALIDATION = 1, 2


def picture(seed):
    """A picture with shapes in it, (64, 64, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC))


def saved_again(pixels, quality=50, side=64):
    """The same after JPEG, and after another size."""
    small = Image.fromarray(pixels).resize((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).resize((64, 64)))


def regrouped(pictures, parts, *, move=True):
    """Regroup pictures that are named `a`, `b`, ..."""
    found = duplicates.fingerprints(np.stack(pictures))
    return duplicates.regroup(
        found,
        np.array(parts, np.int8),
        lambda numbers: [chr(97 + number) for number in numbers],
        move=move,
    )


def test_equal_pictures_come_to_one_side():
    """Whoever's name comes first decides; others stay where they are."""
    copies = regrouped(
        [picture(0), picture(1), picture(0), picture(2)], [VALIDATION, TRAIN, TRAIN, TRAIN]
    )
    assert copies.parts.tolist() == [VALIDATION, TRAIN, VALIDATION, TRAIN]
    assert (copies.exact, copies.alike, copies.moved) == (2, 0, 1)


@pytest.mark.parametrize(("quality", "side"), [(50, 64), (95, 32), (80, 200)])
def test_pictures_saved_again_are_copies(quality, side):
    """Another compression or size is the same picture."""
    copies = regrouped(
        [picture(0), saved_again(picture(0), quality, side), picture(1)], [TRAIN, VALIDATION, TRAIN]
    )
    assert copies.parts.tolist() == [TRAIN] * 3
    assert (copies.exact, copies.alike, copies.moved) == (0, 2, 1)


def test_copies_on_one_side_are_nobodys_business():
    """Nothing is counted or moved that crosses no split."""
    copies = regrouped([picture(0), picture(0), picture(1)], [TRAIN, TRAIN, VALIDATION])
    assert (copies.exact, copies.alike, copies.moved) == (0, 0, 0)


def test_empty_pictures_are_not_alike():
    """Skies and blank pages differ by little and are no copies of each other, unless equal."""
    blank = [np.full((64, 64, 3), 250 + number, np.uint8) for number in range(4)]
    copies = regrouped([*blank, blank[0]], [TRAIN, VALIDATION, TRAIN, VALIDATION, VALIDATION])
    assert (copies.exact, copies.alike) == (2, 0)


def test_given_parts_are_counted_and_stay():
    """Where folders say what is what, nothing changes sides."""
    copies = regrouped([picture(0), picture(0)], [TRAIN, VALIDATION], move=False)
    assert copies.parts.tolist() == [TRAIN, VALIDATION]
    assert (copies.exact, copies.moved) == (2, 0)


def test_a_large_group_falls_to_validation_as_seldom_as_one_picture():
    """Frames of films, a tenth of them for validation: a tenth of the films stays there."""
    random = np.random.default_rng(5)
    films, frames = 300, 10
    digests = np.repeat(np.arange(films, dtype=np.uint64), frames)
    parts = np.where(random.random(films * frames) < 0.1, VALIDATION, TRAIN).astype(np.int8)
    names = [f"{value:.12f}" for value in random.random(films * frames)]
    found = duplicates.Fingerprints(digests, np.zeros((films * frames, 64), np.uint8))
    copies = duplicates.regroup(
        found, parts, lambda numbers: [names[number] for number in numbers], move=True
    )
    by_film = copies.parts.reshape(films, frames)
    assert (by_film == by_film[:, :1]).all()
    assert 0.05 < (by_film[:, 0] == VALIDATION).mean() < 0.15


def test_small_and_no_pictures_have_fingerprints():
    """Pictures smaller than a thumbnail are told apart by their pixels alone."""
    tiny = np.zeros((3, 4, 4, 3), np.uint8)
    tiny[1] = 9
    found = duplicates.fingerprints(tiny)
    assert found.digests[0] == found.digests[2] != found.digests[1]
    assert duplicates.fingerprints(tiny[:0]).thumbnails.shape == (0, 64)
    empty = duplicates.regroup(
        duplicates.fingerprints(tiny[:0]),
        np.zeros(0, np.int8),
        lambda numbers: list(map(str, numbers)),
        move=True,
    )
    assert empty.moved == 0
