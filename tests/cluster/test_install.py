"""`--install` on a cluster whose nodes have Ray alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import strangers

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def cluster():
    """One node of two CPUs, started from an environment that has Ray and pip, and nothing of ours."""
    bare = os.environ.get("CATDOG_BARE_RAY")
    if bare is None:
        pytest.skip("CATDOG_BARE_RAY names an environment with this Ray, pip and no more")
    path = f"{bare}/bin:/usr/local/bin:/usr/bin:/bin"
    with strangers.started(ray=f"{bare}/bin/ray", PATH=path, PYTHONPATH="") as found:
        yield found


def environments(cluster):
    """Those that the node has installed, with the time of the installation."""
    folder = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent
    found = folder.glob("r/session_latest/runtime_resources/uv/*/virtualenv")
    return {path.parent.name: path.stat().st_ctime_ns for path in found}


def run(cluster, *arguments):
    """The summary of a command that has come to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "catdog", *map(str, arguments), "--install", "--json"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_jobs_install_what_they_need_once(cluster, drawings, tmp_path):
    """`submit` classifies without TensorFlow and trains with it; the next job installs nothing."""
    submitted = ("--address", cluster.job_server)

    def classify(name):
        command = ["classify", drawings.as_uri(), "--output", (tmp_path / name).as_uri()]
        return run(cluster, "submit", *command, *submitted)["planned"]

    assert classify("one") == 160
    light = environments(cluster)
    assert len(light) == 1
    assert classify("two") == 160
    assert environments(cluster) == light
    command = ["train", drawings.as_uri(), "--output", (tmp_path / "run").as_uri()]
    command += ["--epochs", 1, "--batch-size", 16, "--height", 64, "--width", 64]
    run(cluster, "submit", *command, "--architecture", "article", "--workers", 1, *submitted)
    assert len(environments(cluster)) == 2


def test_a_driver_elsewhere_has_nodes_install(cluster, drawings, tmp_path):
    """Likewise with `--address`, from an environment that has all."""
    output = tmp_path / "out"
    done = run(cluster, "classify", drawings, "--output", output, "--address", cluster.address)
    assert done["planned"] == 160
