"""Few images are classified in the driver's own process: the same ledger, the same rows, no Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catdog import machine
from catdog.classification import ClassifyConfig, classify, in_process
from tests.jobs import catdog, decoders

FAULTS = ["before */part-0000000-*", "after */part-0000000-*"]  # `test_exactly_once` has the others


@pytest.fixture
def folder(drawings, tmp_path):
    """Six pictures, and two files that are none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((drawings / "cat").iterdir())[:6]:
        shutil.copy(path, folder)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"no picture at all")
    return folder


@pytest.fixture
def config(folder, tiny_model, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ClassifyConfig(images=(str(folder),), output=str(tmp_path / "results"), model=tiny_model)


def table(config):
    return pq.read_table(config.output).sort_by("uri")


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_rows_growth_and_rerun(config, folder, drawings):
    """A row for each file; what comes later is done alone; a rerun does nothing; no process is left."""
    first = classify(config)
    assert (first.executor, first.planned, first.images_this_run) == ("process", 8, 8)
    assert first.errors == {"empty": 1, "not-an-image": 1}
    assert table(config)["uri"].to_pylist() == sorted(f"file://{path}" for path in folder.iterdir())
    shutil.copy(next((drawings / "dog").iterdir()), folder)
    more = classify(config)
    assert (more.executor, more.new, more.images_this_run) == ("process", 1, 1)
    again = classify(config)
    assert (again.executor, again.images_this_run, again.already_complete) == (None, 0, True)
    assert not list(decoders())
    assert "ray" not in sys.modules


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_kills_between_write_and_commit(config, tmp_path):
    """Killed at each step of the ledger, the same command goes on, and the rows are the same."""
    undisturbed = dataclasses.replace(config, output=str(tmp_path / "undisturbed"))
    classify(undisturbed)
    faults = tmp_path / "faults"
    faults.mkdir()
    for number, fault in enumerate(FAULTS):
        (faults / str(number)).write_text(fault)
    python_path = os.pathsep.join([str(Path(__file__).parents[1] / "faults"), *sys.path])
    environment = {"PYTHONPATH": python_path, "CATDOG_FAULTS": str(faults)}
    arguments = ["classify", *config.images, "--output", config.output, "--model", config.model]
    ends = []
    while not ends or ends[-1]:
        driver = catdog(
            *arguments, "--json", "--no-report", "--max-rejected", "1", environment=environment
        )
        told, errors = driver.communicate(timeout=240)
        assert driver.returncode in (0, -signal.SIGKILL), errors
        ends.append(driver.returncode)
    assert ends == [-signal.SIGKILL] * len(FAULTS) + [0]
    assert json.loads(told)["planned"] == 8
    assert table(config).equals(table(undisturbed))


def test_what_asks_for_ray(config, monkeypatch):
    """An address, a number of workers, more images or bytes than a process does in seconds."""
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert in_process.may_run(config)
    assert not in_process.may_run(dataclasses.replace(config, workers=1))
    assert not in_process.may_run(dataclasses.replace(config, address="auto"))
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    assert not in_process.may_run(config)
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not in_process.may_run(config)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["MAX_IMAGES", "MAX_BYTES"])
def test_beyond_the_limits_ray_does_it(config, ray_cluster, monkeypatch, limit):
    """Also where the plan was made before; the rows are the same."""
    del ray_cluster
    assert classify(dataclasses.replace(config, output=config.output + "-ray")).executor == "ray"
    monkeypatch.setattr(in_process, "may_run", lambda _: True)
    here = classify(config)
    assert here.executor == "process"
    rows = table(config)
    assert rows.equals(table(dataclasses.replace(config, output=config.output + "-ray")))
    shutil.rmtree(config.output)
    monkeypatch.setattr(in_process, limit, 5)
    assert classify(config).executor == "ray"
    assert table(config).equals(rows)
