"""What a teacher says of images is learned beside their labels, and in place of those that lack."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from catdog import storage
from catdog.errors import UserInputError
from catdog.model import folders
from catdog.training import TrainConfig, teacher, train


def test_a_label_and_the_teacher_share_a_target():
    """Half is the label's; all is the label's, or the teacher's, where there is no other."""
    unseen = [np.nan, np.nan]
    scores = np.array([[0.75, 0.25], [0.75, 0.25], unseen, unseen], np.float32)
    targets = teacher.targets(np.array([0, 1, 1, 0], np.int32), scores)
    np.testing.assert_allclose(targets, [[0.875, 0.125], [0.375, 0.625], [0, 1], [1, 0]])
    alone = teacher.targets(np.array([-1, -1], np.int32), scores[:2])
    np.testing.assert_allclose(alone, scores[:2])


def test_targets_of_many_classes_are_probabilities():
    """Whatever is known of an image, its target's numbers sum to 1."""
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(5), 40).astype(np.float32)
    targets = teacher.targets(random.integers(-1, 5, 40).astype(np.int32), scores)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert targets.min() >= 0


def test_a_teacher_says_itself_how_sure_to_be():
    """Labels are not smoothed beside one, unless a flag says so."""
    config = TrainConfig(images=("photos",), output="run", architecture="compact", teacher="model")
    assert config.hyperparameters.label_smoothing == 0
    asked = dataclasses.replace(config, label_smoothing=0.1)
    assert asked.hyperparameters.label_smoothing == 0.1


def test_a_teacher_of_other_classes_is_refused(tiny_model):
    """By name, with the classes of both."""
    assert teacher.load(tiny_model, ("cat", "dog")).metadata.labels == ("cat", "dog")
    with pytest.raises(UserInputError, match=r"--teacher .*cat, dog; the images are of ant, bee$"):
        teacher.load(tiny_model, ("ant", "bee"))
    with pytest.raises(UserInputError, match="--teacher nowhere: no finished model"):
        teacher.load("nowhere", ("cat", "dog"))


@pytest.mark.slow
def test_a_network_learns_from_a_teacher(ray_cluster, drawings, tiny_config, tiny_model, tmp_path):
    """From pictures without labels, too; what the teacher said stays in the run's folder."""
    photos = tmp_path / "photos"
    shutil.copytree(drawings, photos)
    for path in sorted((photos / "dog").glob("dog.[67]*.jpg")):
        path.rename(photos / f"loose-{path.name}")
    loose = len(list(photos.glob("loose-*")))
    config = dataclasses.replace(
        tiny_config,
        images=(str(photos),),
        output=str(tmp_path / "run"),
        teacher=tiny_model,
        epochs=1,
        workers=1,
    )
    result = train(config)
    assert sum(result.images.values()) == 160
    taught = Path(storage.local_path(result.output)) / teacher.SCORES_FILE
    with np.load(taught) as kept:
        fingerprint, scores = str(kept["fingerprint"]), kept["scores"]
    assert fingerprint == folders.load(tiny_model).metadata.fingerprint
    assert np.isfinite(scores).all()
    training = folders.load(result.model).metadata.training
    assert training["teacher"] == fingerprint
    assert training["images"]["train"] > loose
    unlabelled = dataclasses.replace(config, output=str(tmp_path / "other"), teacher=None)
    with pytest.raises(UserInputError, match=f"{loose} images without a label.*--teacher"):
        train(unlabelled)
