"""Images that are decoded again in each epoch: the same order and the same pixels as those that are kept."""

from __future__ import annotations

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from catdog import storage
from catdog.inputs import SourceLimits
from catdog.observer import Observer
from catdog.pixels import DecodeLimits
from catdog.training import TrainConfig, data, decoding, list_labelled, placement, reader, train

pytestmark = pytest.mark.slow

LIMITS = DecodeLimits(), SourceLimits()


@pytest.fixture
def photos(drawings, tmp_path, monkeypatch):
    """Drawings in blocks of 16, one of them damaged."""
    monkeypatch.setattr(decoding, "_SHARD_IMAGES", 16)
    folder = shutil.copytree(drawings, tmp_path / "photos")
    (folder / "cat" / "cat.7.jpg").write_bytes(b"nothing")
    return folder


def decoded(photos, *, each_epoch):
    """What decoding gives, two blocks shuffled together."""
    config = TrainConfig(images=(str(photos),), output="run", height=16, width=16)
    labelled = list_labelled(config.images, LIMITS[1], validation=0.25, test=0.0)
    found = decoding.decode_all(
        labelled,
        config,
        *LIMITS,
        actors=2,
        window_images=32,
        each_epoch=each_epoch,
        observer=Observer(),
    )
    return found.images


def read(images, worker, workers):
    """The pixels of two epochs and a validation as a worker reads them."""
    import ray

    here = [ray.get_runtime_context().get_node_id()] * workers
    where = placement.placed(len(images.blocks), images.block_of[images.train], here)
    lenders = reader.Lenders(f"{worker} of {workers}", images, 4, at_once=2)
    taken = reader.PixelReader(images, images.window_images, where, worker, lenders)
    windows = data.shuffled_passes(images, 3, images.window_images)
    batches = data.training_batches(images, windows, 12, worker, where)
    batches = list(itertools.islice(batches, 2 * len(images.train) // 12))
    batches += data.validation_batches(images, 12, None, 3, worker, where)
    return list(reader.read(taken, batches, announced=images.window_images // 12))


def weights(run):
    """The trained weights as they lie in the model's folder."""
    return storage.read_bytes(storage.join(run.model, "model.bin"), 10**8)


def test_batches_are_those_of_kept_images(ray_cluster, photos):
    """To the bit, for one and two workers, with an image among them that cannot be decoded."""
    kept, again = (decoded(photos, each_epoch=each) for each in (False, True))
    assert again.rejected == kept.rejected
    assert len(again.blocks) > 4  # more than are kept: some are decoded several times
    for worker, workers in ((0, 1), (0, 2), (1, 2)):
        pairs = zip(read(kept, worker, workers), read(again, worker, workers), strict=True)
        for expected, found in pairs:
            for each, other in zip(expected, found, strict=True):
                np.testing.assert_array_equal(each, other)


def test_an_image_that_is_gone_since_is_named(ray_cluster, photos):
    """Nobody trains on what is not there."""
    images = decoded(photos, each_epoch=True)
    shutil.rmtree(photos / "dog")
    with pytest.raises(Exception, match=r"dog\.\d+\.jpg: it could be decoded when the run began"):
        read(images, 0, 1)


def test_weights_are_those_of_kept_images(tiny_run, tiny_config, tmp_path):
    """Two workers end with the same model."""
    config = dataclasses.replace(tiny_config, decode="each-epoch", output=str(tmp_path / "run"))
    again = train(config)
    losses = [[(row["loss"], row["val_loss"]) for row in run.history] for run in (again, tiny_run)]
    assert losses[0] == losses[1]
    assert weights(again) == weights(tiny_run)
