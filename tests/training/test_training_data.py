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
from catdog.training.placement import placed

several = pytest.mark.parametrize("workers", [1, 2, 3, 5])


def decoded(train: int, blocks: int = 4, validation: int = 0) -> DecodedImages:
    """Images to train on, then those to validate with; neighbours share a block, as classes do."""
    n = train + validation
    numbers = np.arange(n, dtype=np.int64)
    return DecodedImages(
        blocks=tuple(range(blocks)),
        block_nodes=("node",) * blocks,
        block_of=(numbers * blocks // n).astype(np.int32),
        row_of=np.zeros(n, np.int32),
        classes=np.zeros(n, np.int32),
        train=numbers[:train],
        validation=numbers[train:],
        shape=(1, 1, 3),
        window_images=1000,
        rejected=(),
    )


def placement_of(images, workers):
    return placed(len(images.blocks), images.block_of[images.train], ["node"] * workers)


def batches_of(images, workers, steps, batch_size=8):
    """The training batches of each worker."""
    placement = placement_of(images, workers)
    return [
        list(
            itertools.islice(
                training_batches(
                    images, shuffled_passes(images, 0, 1000), batch_size, worker, placement
                ),
                steps,
            )
        )
        for worker in range(workers)
    ]


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


@several
def test_workers_share_the_global_batches_of_one(workers):
    """The shares of N workers, put together, are the batches that one worker would have."""
    (alone,) = batches_of(decoded(37), 1, 12)
    together = batches_of(decoded(37), workers, 12)
    for step, whole in enumerate(alone):
        shares = [batch[step] for batch in together]
        places = np.concatenate([share.places[share.weights > 0] for share in shares])
        numbers = np.concatenate([share.numbers[share.weights > 0] for share in shares])
        assert sorted(places) == list(range(8))
        assert numbers[np.argsort(places)].tolist() == whole.numbers.tolist()
        # One shape for every step of every worker: nothing recompiles, nothing hangs.
        assert {len(share.numbers) for share in shares} == {-(-8 // workers)}
        assert {share.total for share in shares} == {8}


@several
@pytest.mark.parametrize("validation", [1, 7, 8, 21])
@pytest.mark.parametrize("steps", [None, 3])
def test_validation_counts_every_image_once(workers, validation, steps):
    """However the numbers divide: every image once, or those of full batches as one worker has them."""

    def counted(images, workers):
        placement = placement_of(images, workers)
        each = [
            list(validation_batches(images, 8, steps, 0, worker, placement))
            for worker in range(workers)
        ]
        assert len({len(batches) for batches in each}) == 1  # no worker waits for another
        for batches in zip(*each, strict=True):
            assert len({(batch.total, len(batch.numbers)) for batch in batches}) == 1
            assert batches[0].total == sum(batch.weights.sum() for batch in batches)
        seen = (batch.numbers[batch.weights > 0] for batches in each for batch in batches)
        return sorted(np.concatenate(list(seen)))

    found = counted(decoded(16, 8, validation), workers)
    assert found == counted(decoded(16, 8, validation), 1)
    if steps is None:
        assert found == list(range(16, 16 + validation))
    else:
        counts = np.bincount(found)[16:]
        assert counts.sum() == steps * 8
        assert counts.max() - counts.min() <= 1


def test_parts_are_stable_when_fractions_change():
    """Images kept for the test stay there when the validation part grows, and never train."""
    names = [f"cat/cat.{number}.jpg" for number in range(3000)]
    small = [splits.part_of(name, validation=0.1, test=0.1) for name in names]
    large = [splits.part_of(name, validation=0.3, test=0.1) for name in names]
    assert [part == "test" for part in small] == [part == "test" for part in large]
    assert all(b == "validation" for a, b in zip(small, large, strict=True) if a == "validation")
    shares = [small.count(part) / len(names) for part in ("train", "validation", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


@several
def test_an_images_random_numbers_are_its_own(workers):
    """An image is augmented alike whichever worker trains on it, and anew in every batch."""

    def uniforms(batch):
        return batch.uniforms(7, 8, 4)[batch.weights > 0]

    (alone,) = batches_of(decoded(37), 1, 5)
    together = batches_of(decoded(37), workers, 5)
    for step, whole in enumerate(alone):
        shares = [batch[step] for batch in together]
        places = np.concatenate([share.places[share.weights > 0] for share in shares])
        joined = np.concatenate([uniforms(share) for share in shares])
        assert joined[np.argsort(places)].tolist() == uniforms(whole).tolist()
    assert len({uniforms(batch).tobytes() for batch in alone}) == len(alone)
    assert all((uniforms(batch) >= 0).all() and (uniforms(batch) < 1).all() for batch in alone)


@several
def test_padding_is_the_same_for_all(workers):
    """Batch normalisation sees it: it is the batch's first image, changed as that one is."""
    for batches in batches_of(decoded(37), workers, 5):
        for batch in batches:
            assert not batch.places[batch.weights == 0].any()
