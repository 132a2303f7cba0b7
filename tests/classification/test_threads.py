"""A job's threads end with it, in a program that goes on afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, threading, time
from catdog.classification import ClassifyConfig, classify
from catdog.observer import Observer

class Impatient(Observer):
    def progress(self, *numbers):
        raise KeyboardInterrupt

def ours():
    return [t.name for t in threading.enumerate() if t.name.startswith(("catdog", "plan"))]

images, model, output = sys.argv[1:]
try:
    classify(
        ClassifyConfig(images=(images,), output=output, model=model, workers=1),
        Impatient() if output.endswith("stopped") else None,
    )
except KeyboardInterrupt:
    print("interrupted")
deadline = time.monotonic() + 60  # of a Ray job that is being ended
while ours() and time.monotonic() < deadline:
    time.sleep(0.1)
print(ours())
"""


@pytest.mark.parametrize("end", ["done", "stopped"])
def test_no_thread_outlives_its_job(drawings, tiny_model, tmp_path, end):
    """Neither of a job that is done, nor of one whose consumer stops half-way."""
    command = [sys.executable, "-c", PROGRAM, str(drawings), tiny_model, str(tmp_path / end)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    # Ray's own lines may come before: that a task has ended with its worker, for one.
    said = [line for line in done.stdout.splitlines() if "(raylet)" not in line]
    assert said == ["interrupted"] * (end == "stopped") + ["[]"], done.stderr
