"""Several jobs on one cluster of three nodes that somebody else has started, each in its place."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest

from tests import strangers

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Says again and again how many CPUs are in use: on the nodes of the pool `train`, and on the others.
USED = """
import json, ray, time
from ray._private.state import available_resources_per_node
ray.init({address!r}, log_to_driver=False)
print("ready", flush=True)
while True:
    free, used = available_resources_per_node(), {{"train": 0, "decode": 0}}
    for node in ray.nodes():
        has = node["Resources"].get("CPU", 0)
        used[node["Labels"]["pool"]] += has - free.get(node["NodeID"], {{}}).get("CPU", 0)
    print(json.dumps(used), flush=True)
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of two CPUs each."""
    labels = ["pool=train", "pool=decode", "pool=decode"]
    with strangers.started((2, 2, 2), labels=labels) as found:
        yield found


@contextlib.contextmanager
def used(cluster):
    """A list that at the end has the CPUs in use, in `train` and in `decode`, time after time."""
    samples: list[tuple[int, int]] = []
    process = subprocess.Popen(
        [sys.executable, "-c", USED.format(address=cluster.address)],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield samples
    finally:
        process.kill()
        for line in process.communicate()[0].splitlines():
            with contextlib.suppress(ValueError):  # the last one may be half a line
                found = json.loads(line)
                samples.append((int(found["train"]), int(found["decode"])))


def begun(cluster, *arguments):
    """A command that runs on this cluster."""
    command = [sys.executable, "-m", "catdog", *map(str, arguments), "--address", cluster.address]
    return subprocess.Popen(
        [*command, "--json"],
        env=cluster.environment,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def classifying(drawings, model, output, *arguments):
    return ["classify", drawings, "--output", output, "--model", model, *arguments]


def training(drawings, output, *arguments):
    small = ["--epochs", 2, "--batch-size", 16, "--height", 64, "--width", 64]
    return ["train", drawings, "--output", output, "--architecture", "article", *small, *arguments]


def ended(*commands):
    """What each says with `--json`; all have come to their end."""
    said = [command.communicate(timeout=400) for command in commands]
    for command, (_, errors) in zip(commands, said, strict=True):
        assert command.returncode == 0, errors
        assert "waiting for other jobs" not in errors
    return [json.loads(output) for output, _ in said]


def test_two_classifications_at_once(cluster, drawings, tiny_model, tmp_path):
    """Each has the workers that it was given, and both end."""
    one, two = (
        begun(cluster, *classifying(drawings, tiny_model, tmp_path / name, "--workers", 2))
        for name in "ab"
    )
    assert [summary["planned"] for summary in ended(one, two)] == [160, 160]


def test_training_beside_classification(cluster, drawings, tiny_model, tmp_path):
    """Neither waits for the other."""
    one = begun(cluster, *training(drawings, tmp_path / "run", "--workers", 2))
    two = begun(cluster, *classifying(drawings, tiny_model, tmp_path / "out", "--workers", 2))
    ended(one, two)


@pytest.mark.parametrize("verb", ["classify", "train"])
def test_no_more_than_its_workers(cluster, drawings, tiny_model, tmp_path, verb):
    """With `--workers 1` no more than one CPU of six is ever in use, also while it decodes."""
    arguments = training(drawings, tmp_path / "out")
    if verb == "classify":
        arguments = classifying(drawings, tiny_model, tmp_path / "out")
    with used(cluster) as samples:
        ended(begun(cluster, *arguments, "--workers", 1))
    assert max(map(sum, samples)) == 1


def test_classification_on_nodes_with_a_label(cluster, drawings, tiny_model, tmp_path):
    """It takes all of these nodes, and no other."""
    arguments = classifying(drawings, tiny_model, tmp_path / "out", "--node-label", "pool=decode")
    with used(cluster) as samples:
        ended(begun(cluster, *arguments))
    assert {train for train, _ in samples} == {0}
    assert max(decode for _, decode in samples) > 0


def test_decoding_and_training_on_nodes_of_their_own(cluster, drawings, tmp_path):
    """Images are decoded on nodes with the one label, and training runs on those with the other."""
    where = ["--node-label", "pool=train", "--decode-node-label", "pool=decode", "--workers", 2]
    with used(cluster) as samples:
        ended(begun(cluster, *training(drawings, tmp_path / "run", *where)))
    decoding = [number for number, (_, decode) in enumerate(samples) if decode]
    fitting = [number for number, (train, _) in enumerate(samples) if train]
    assert decoding
    assert fitting
    assert max(decoding) < min(fitting)


def test_no_node_with_the_label(cluster, drawings, tiny_model, tmp_path):
    """One line says which label no node has."""
    arguments = classifying(drawings, tiny_model, tmp_path / "out", "--node-label", "pool=none")
    process = begun(cluster, *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "room for 0 of 1 worker of 1 CPU each on nodes with the label pool=none" in errors
