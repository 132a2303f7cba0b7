"""What computes is one thing in a whole job, decided at its first start."""

from __future__ import annotations

import dataclasses

import pytest

from catdog.classification import ClassifyConfig, job
from catdog.errors import UserInputError
from catdog.model import Arithmetic, folders, inference
from catdog.runtime import nodes


@pytest.fixture(scope="module")
def model():
    return folders.load(folders.SHIPPED)


@pytest.mark.parametrize(
    ("asked", "cluster", "expected"),
    [
        ({}, {"bfloat16": True}, ("openvino", "bfloat16", "cpu")),
        ({}, {"bfloat16": False}, ("openvino", "float32", "cpu")),
        ({}, {"gpu": True}, ("tensorflow", "float16", "gpu")),
        ({"engine": "openvino"}, {"gpu": True, "bfloat16": True}, ("openvino", "bfloat16", "cpu")),
        ({"precision": "float16"}, {}, ("openvino", "float32", "cpu")),
        ({"precision": "float32"}, {"gpu": True}, ("tensorflow", "float32", "gpu")),
    ],
)
def test_auto_means_one_thing(model, asked, cluster, expected):
    """Engine, precision and device follow from the model, what was asked, and the cluster."""
    assert dataclasses.astuple(inference.choose_arithmetic(model, **asked, **cluster)) == expected


def test_arithmetic_is_of_the_identity(model):
    """Two jobs that differ in it ask two questions."""
    config = ClassifyConfig(images=("x",), output="y")
    one, two = (
        config.question("f", Arithmetic("openvino", precision, "cpu"), (0.0, 0.0))
        for precision in ("float32", "bfloat16")
    )
    assert one != two


def test_a_cluster_that_cannot_compute_so_is_refused(monkeypatch):
    """At the start, with the node's name: not as two kinds of answers in one table."""
    monkeypatch.setattr(nodes, "without_bfloat16", lambda _: ["10.0.0.7"])
    monkeypatch.setattr(nodes, "cluster_resources", lambda _: (4, 0))
    monkeypatch.setattr(nodes, "autoscales", lambda: False)
    job._refuse_unable(Arithmetic("openvino", "float32", "cpu"))
    job._refuse_unable(Arithmetic("tensorflow", "bfloat16", "cpu"))  # it computes it everywhere
    with pytest.raises(UserInputError, match=r"10\.0\.0\.7 cannot compute in bfloat16"):
        job._refuse_unable(Arithmetic("openvino", "bfloat16", "cpu"))
    with pytest.raises(UserInputError, match="began on GPUs, and this cluster has none"):
        job._refuse_unable(Arithmetic("tensorflow", "float16", "gpu"))
