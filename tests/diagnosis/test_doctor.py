"""`catdog doctor`: what works is said to work, and what does not is named with what to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from catdog.diagnosis import DoctorConfig, examine


def places(*names):
    """The findings of these places alone; what comes after them is never started."""
    found = []
    for finding in examine(DoctorConfig(places=names)):
        if finding.name == "model":
            return found
        if finding.name in names:
            found.append(finding)
    return found


def test_this_machine_is_well():
    """Each check before the places is fine where the tests run, and says what it found."""
    findings = []
    for finding in examine(DoctorConfig()):
        if finding.name == "model":
            break
        findings.append(finding)
    assert [finding.name for finding in findings if not finding.ok] == []
    assert all(finding.said for finding in findings)


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    """It is listed, written and read, and holds afterwards what it held before."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    (finding,) = places(str(tmp_path))
    assert finding.ok
    assert "created only once" in finding.said
    assert [each.name for each in tmp_path.iterdir()] == ["a.jpg"]


def test_a_place_that_is_no_folder(tmp_path):
    """A missing folder and a file fail, each with what to name instead."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    findings = places(str(tmp_path / "a.jpg"), str(tmp_path / "missing"))
    assert [finding.ok for finding in findings] == [False, False]
    assert all("name a folder" in finding.remedy for finding in findings)


@pytest.mark.slow
def test_a_bucket_is_tried(s3):
    """A store with create-if-absent is fit for results; the probe is gone afterwards."""
    from catdog import storage

    (finding,) = places(s3)
    assert finding.ok
    assert "created only once" in finding.said
    assert storage.list_names(s3) == []


def test_a_bucket_without_credentials(s3, monkeypatch):
    """The line says which variables are read, and shows no secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    (finding,) = places(s3)
    assert not finding.ok
    assert "AWS_PROFILE" in finding.remedy
    assert "a-wrong-secret" not in finding.said + finding.remedy


@pytest.mark.slow
def test_the_command(tmp_path):
    """One line a check; code 0 where all is well, 1 where the cluster does not answer."""
    command = [sys.executable, "-m", "catdog", "doctor", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert lines[-1].startswith("ok    Ray: a local cluster starts")
    command += ["--address", "127.0.0.1:1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [finding["name"] for finding in findings if not finding["ok"]] == ["Ray"]
    assert "127.0.0.1:1" in findings[-1]["said"]
