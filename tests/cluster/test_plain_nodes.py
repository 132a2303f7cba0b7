"""What `test_nodes` does to a node, on three nodes with Ray's own settings, as others run them."""

from __future__ import annotations

import json
import re

import pytest
import test_nodes

from catdog import storage

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def plain_lab():
    """Its nodes have no variable of Ray's but those of its token."""
    with test_nodes.lab_of(plain=True) as lab:
        yield lab
        for job in lab.jobs:
            job.close()


def cut_for_good(lab, node):
    """A node is cut off without a word, and stays so."""
    del lab
    node.host.cut()


def stop(lab, node):
    """The process that works on it is there, and does not answer."""
    lab.stop_worker(node)


def kill(lab, node):
    """It ends at once."""
    del lab
    node.kill()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (kill, "its node was lost"),
        (stop, "its worker was silent"),
        (cut_for_good, "its node was lost"),
    ],
)
def test_classify_outlives(plain_lab, fault, cause):
    """The lost shard is done by another worker, in time, and the summary says why."""
    plain_lab.cluster.repair()
    output = plain_lab.new_output()
    job = plain_lab.classify(output)
    test_nodes.half_way(job, output)
    fault(plain_lab, plain_lab.cluster.workers[1])
    assert job.wait(180) == 0, job.log
    summary = json.loads(storage.read_bytes(f"{output}/_summary.json", 10**6))
    assert summary["planned"] == summary["classified"] == test_nodes.IMAGES
    assert cause in summary["retried_shards"], job.log
    if fault is kill:
        assert re.search(r"1 node lost \(.+\); \d+ nodes? left", job.log), job.log


def test_training_outlives_a_killed_node(plain_lab):
    """Its group starts again before the head knows, on all CPUs that are left: lost pixels come still."""
    plain_lab.cluster.repair()
    output = plain_lab.new_output()
    job = plain_lab.train(output)
    node = test_nodes.in_second_epoch(plain_lab, job, output)
    node.kill()
    assert job.wait(180) == 0, job.log
    assert len(test_nodes.metrics(output)) == 2
