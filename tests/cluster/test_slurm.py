"""cluster/slurm.sbatch on a real slurmctld with two real slurmd, where this machine has them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.conftest import free_ports

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sbatch"

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{ports[1]},{ports[2]}] CPUs=2 RealMemory=2000
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def test_the_script_is_bash():
    """It parses, and says first how it is used."""
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    text = SCRIPT.read_text()
    assert "# What to change:" in text
    assert re.search(r"#   sbatch .*cluster/slurm\.sbatch classify ", text)


@pytest.fixture
def slurm(tmp_path):
    """A Slurm of two nodes on this machine; gives a function that runs its commands."""
    programs = ["slurmctld", "slurmd", "sbatch", "munge"]
    missing = [name for name in programs if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"Slurm needs root and {', '.join(missing) or 'its programs'}")
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
        pytest.skip("munged does not run on this machine")
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path, ports=sorted(free_ports(3))))
    (tmp_path / "state").mkdir()
    environment = os.environ | {
        "SLURM_CONF": str(configuration),
        "CATDOG": str(Path(sys.executable).with_name("catdog")),
        "PYTHONPATH": str(ROOT),
    }
    daemons = [["slurmctld", "-i"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]]
    started = [
        subprocess.Popen([name, "-D", "-f", str(configuration), *rest], env=environment)
        for name, *rest in daemons
    ]

    def run(*command):
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    deadline = time.monotonic() + 30
    while "idle" not in run("sinfo", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.5)
    yield run
    for process in reversed(started):
        process.terminate()
        process.wait(timeout=30)


def wait_for(run, job, states, seconds=180):
    deadline = time.monotonic() + seconds
    state = ""
    while state not in states:
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
        state = re.search(r"JobState=(\w+)", run("scontrol", "show", "job", job))[1]
    return state


@pytest.mark.slow
@pytest.mark.long
def test_a_requeued_job_goes_on(slurm, drawings, tiny_model, tmp_path):
    """At the time limit's warning the job goes back into the queue; its second run has every image once."""
    output = tmp_path / "results"
    command = ["classify", str(drawings), "--model", tiny_model, "--output", str(output)]
    submitted = slurm(
        "sbatch", "--cpus-per-task=1", f"--output={tmp_path}/job.log", str(SCRIPT), *command
    )
    job = submitted.split()[-1]
    deadline = time.monotonic() + 120
    while not (output / "_run.json").exists():
        assert time.monotonic() < deadline, (tmp_path / "job.log").read_text()
        time.sleep(0.1)
    slurm("scancel", "--signal=TERM", "--batch", job)
    wait_for(slurm, job, {"PENDING"})
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    state = wait_for(slurm, job, {"COMPLETED", "FAILED"})
    log = (tmp_path / "job.log").read_text()
    assert state == "COMPLETED", log
    rows = ds.dataset(output).to_table(columns=["uri"])
    assert rows.num_rows == len(set(rows["uri"].to_pylist())) == 160
    assert "goes back into the queue" in log
