"""catdog.machine: limits of this process, by affinity and by real control groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from catdog import machine

CODE = (
    "import json; from catdog import machine; "
    "print(json.dumps([machine.usable_cpus(), machine.memory_limit(), machine.memory_kills()]))"
)


def told(*prefix):
    """CPUs, bytes and kills that a process of its own is told."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_affinity_bounds_the_cpus():
    """As `taskset -c 0` does."""
    one = str(min(os.sched_getaffinity(0)))
    assert told("taskset", "-c", one)[0] == 1


def test_a_quota_of_version_1_bounds_the_cpus(control_group):
    """Of half a CPU one, for there is no less."""
    assert told(*control_group("cpu", cfs_period_us=100_000, cfs_quota_us=50_000))[0] == 1


def test_a_memory_limit_of_version_1_counts(control_group):
    """Also where it is not where containers have it; a new group adds no kills to those of its parents."""
    kills = machine.memory_kills()
    assert told(*control_group("memory", limit_in_bytes=512 * 2**20))[1:] == [512 * 2**20, kills]


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        ({"pod/cpu.max": "150000 100000", "pod/memory.max": "1000"}, 2, 1000),
        ({"cpu.max": "100000 100000", "pod/cpu.max": "max 100000", "memory.max": "max"}, 1, None),
        ({"pod/cpu.max": "garbage", "pod/memory.max": ""}, None, None),
    ],
)
def test_limits_of_version_2(tmp_path, monkeypatch, files, cpus, memory):
    """The lowest on the way from the process's group to the topmost; quotas are rounded up."""
    free = [machine.usable_cpus(), machine.memory_limit()]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    texts = {
        "/proc/self/cgroup": "0::/pod\n",
        "/proc/self/mountinfo": f"30 23 0:28 / {tmp_path} rw - cgroup2 cgroup2 rw\n",
    }
    read = machine._text
    monkeypatch.setattr(machine, "_text", lambda path: texts.get(str(path)) or read(path))
    assert machine.usable_cpus() == min(free[0], cpus or free[0])
    assert machine.memory_limit() == (memory or machine.memory())
    assert machine.memory_limit() == (memory or free[1])


def test_a_container_sees_its_own_group_at_the_mount(tmp_path, monkeypatch):
    """Its path is the one that it has outside, which is not there inside."""
    (tmp_path / "memory.limit_in_bytes").write_text("4096")
    texts = {
        "/proc/self/cgroup": "4:memory:/docker/0123\n0::/\n",
        "/proc/self/mountinfo": f"30 23 0:28 /docker/0123 {tmp_path} rw - cgroup cgroup rw,memory\n",
    }
    monkeypatch.setattr(machine, "_text", lambda path: texts.get(str(path)) or _text(path))
    assert machine.memory_limit() == 4096


_text = machine._text
