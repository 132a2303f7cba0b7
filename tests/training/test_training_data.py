"""The order of training: a function of the seed, never of the number of workers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from catdog.inputs import splits
from catdog.training.data import (
    DecodedImages,
    shuffled_passes,
    training_batches,
    validation_batches,
)


def decoded(train: int, blocks: int = 4) -> DecodedImages:
    numbers = np.arange(train, dtype=np.int64)
    return DecodedImages(
        blocks=(),
        block_of=(numbers * blocks // train).astype(np.int32),
        row_of=np.zeros(train, np.int32),
        classes=np.zeros(train, np.int32),
        train=numbers,
        validation=numbers[:0],
        shape=(1, 1, 3),
        window_images=1000,
        rejected=(),
    )


@pytest.mark.parametrize("window", [7, 40, 10_000])
def test_a_pass_holds_every_image_once(window):
    """Whatever fits into memory at a time, a pass is a permutation, and passes differ."""
    windows = shuffled_passes(decoded(101), seed=3, window_images=window)
    stream = list(itertools.islice(itertools.chain.from_iterable(windows), 202))
    assert sorted(stream[:101]) == sorted(stream[101:]) == list(range(101))
    assert stream[:101] != stream[101:]


def test_order_follows_from_the_seed():
    """The same seed gives the same order, another seed another one."""

    def first(seed: int) -> list[int]:
        return next(shuffled_passes(decoded(50), seed, 1000)).tolist()

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_share_the_global_batches_of_one(workers):
    """The slices of N workers, put together, are the batches that one worker would have."""

    def batches(worker: int, workers: int):
        windows = shuffled_passes(decoded(37), 0, 1000)
        return list(itertools.islice(training_batches(windows, 8, worker, workers), 12))

    alone = batches(0, 1)
    together = [batches(worker, workers) for worker in range(workers)]
    for step, whole in enumerate(alone):
        shares = [batch[step] for batch in together]
        joined = np.concatenate([share.numbers[share.weights > 0] for share in shares])
        assert joined.tolist() == whole.numbers.tolist()
        # One shape for every step of every worker: nothing recompiles, nothing hangs.
        assert {len(share.numbers) for share in shares} == {-(-8 // workers)}
        assert {share.total for share in shares} == {8}


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 7, 8, 21])
def test_validation_counts_every_image_once(workers, images):
    """However the numbers divide, each validation image has weight 1 exactly once."""
    seen = [
        number
        for worker in range(workers)
        for batch in validation_batches(np.arange(images), 8, None, worker, workers)
        for number, weight in zip(batch.numbers, batch.weights, strict=True)
        if weight
    ]
    assert sorted(seen) == list(range(images))


def test_validation_steps_begin_again_where_the_images_end():
    """A fixed number of steps gives full batches, as the seed's 800 steps over fewer images."""
    batches = list(validation_batches(np.arange(5), 4, 3, 0, 1))
    assert [batch.numbers.tolist() for batch in batches] == [
        [0, 1, 2, 3],
        [4, 0, 1, 2],
        [3, 4, 0, 1],
    ]


def test_parts_are_stable_when_fractions_change():
    """Images kept for the test stay there when the validation part grows, and never train."""
    names = [f"cat/cat.{number}.jpg" for number in range(3000)]
    small = [splits.part_of(name, validation=0.1, test=0.1) for name in names]
    large = [splits.part_of(name, validation=0.3, test=0.1) for name in names]
    assert [part == "test" for part in small] == [part == "test" for part in large]
    assert all(b == "validation" for a, b in zip(small, large, strict=True) if a == "validation")
    shares = [small.count(part) / len(names) for part in ("train", "validation", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


@pytest.mark.parametrize("workers", [2, 3])
def test_an_images_random_numbers_are_its_own(workers):
    """An image is augmented alike whichever worker trains on it, and anew in every batch."""

    def uniforms(worker: int, workers: int):
        windows = shuffled_passes(decoded(37), 0, 1000)
        batches = itertools.islice(training_batches(windows, 8, worker, workers), 5)
        return [batch.uniforms(7, 8, 4)[batch.weights > 0] for batch in batches]

    alone = uniforms(0, 1)
    together = zip(*(uniforms(worker, workers) for worker in range(workers)), strict=True)
    for whole, shares in zip(alone, together, strict=True):
        assert np.concatenate(shares).tolist() == whole.tolist()
    assert len({batch.tobytes() for batch in alone}) == len(alone)
    assert all((batch >= 0).all() and (batch < 1).all() for batch in alone)
