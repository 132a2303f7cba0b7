"""Each command with `--address` on a cluster that somebody else has started, with Ray's defaults."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import strangers

pytestmark = pytest.mark.slow

# Longer than a server with Ray's defaults lets a client ping every 5 s: it hangs up at the third.
QUIET = """
import ray, time
from catdog.runtime import ray_quirks

@ray.remote(num_cpus=0)
class Quiet:
    def wait(self):
        time.sleep(60)
        return "done"

with ray_quirks.connect(None, minimum_cpus=1):
    pass  # a cluster of its own, whose settings the next connection must not inherit
with ray_quirks.connect({address!r}):
    print(ray.get(Quiet.remote().wait.remote()), flush=True)
"""


@pytest.fixture(scope="module")
def cluster():
    """One node of two CPUs."""
    with strangers.started() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def quiet_call(cluster):
    """A driver that makes one long call without a message while the other tests run."""
    process = subprocess.Popen(
        [sys.executable, "-c", QUIET.format(address=cluster.address)],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def catdog(cluster, *arguments):
    """What a command prints with `--json`, on this cluster."""
    command = [sys.executable, "-m", "catdog", *map(str, arguments)]
    done = subprocess.run(
        [*command, "--address", cluster.address, "--json"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_train_on_it(cluster, drawings, tmp_path):
    """Training comes to its end."""
    arguments = ["--epochs", 2, "--batch-size", 16, "--height", 64, "--width", 64]
    arguments += ["--workers", 1, "--architecture", "article"]
    catdog(cluster, "train", drawings, "--output", tmp_path / "run", *arguments)
    assert (tmp_path / "run" / "model" / "metadata.json").exists()


def test_evaluate_on_it(cluster, drawings, tiny_model, tmp_path):
    """So does evaluation, and the classification that it begins with."""
    output = tmp_path / "evaluated"
    catdog(cluster, "evaluate", drawings, "--output", output, "--model", tiny_model)
    summary = json.loads((output / "results" / "_summary.json").read_text())
    assert summary["planned"] == 160


def test_submit_to_it(cluster, drawings, tiny_model, tmp_path):
    """A job that is submitted takes the cluster's settings, and its driver adds none."""
    command = ["classify", drawings.as_uri(), "--output", (tmp_path / "out").as_uri()]
    command += ["--model", f"file://{tiny_model}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "catdog", "submit", *command, "--address", cluster.job_server],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["planned"] == 160


def test_a_quiet_minute_is_no_reason_to_be_hung_up_on(quiet_call):
    """A call of a minute without a message, such as Ray Train's, comes back."""
    said, errors = quiet_call.communicate(timeout=120)
    assert said == "done\n", errors
