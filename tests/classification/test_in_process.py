"""Few images are classified in the driver's own process: the same ledger, the same rows, no Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import api, machine
from catdog.classification import ClassifyConfig, actors, classify, in_process
from catdog.errors import CatdogError, UserInputError
from catdog.observer import Observer
from catdog.reporting import ReportConfig, examine
from catdog.results import drafts
from catdog.storage import Stores
from tests.jobs import catdog, decoders
from tests.storage.servers import Answering, serving

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


class Phases(Observer):
    """Keeps what it is told of phases."""

    def __init__(self):
        self.told = []

    def phase(self, text):
        """A phase."""
        self.told.append(text)


def told_of(config):
    """The phases of a job."""
    observer = Phases()
    classify(config, observer)
    return observer.told


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_a_resume_says_so_and_a_rerun_what_becomes_of_rows(config, folder, monkeypatch):
    """First how much is done; of images that are gone, that their rows stay. A slash is no change."""
    assert not any("resuming" in line for line in told_of(config))
    results = Path(config.output)
    for path in (results / "_summary.json", *results.glob("part-*.parquet")):
        path.unlink()
    assert told_of(config)[0] == "resuming: 0 of 8 images done, 1 of 1 shard left"
    monkeypatch.chdir(folder.parent)
    for named in ("images", "images/", f"file://{folder}/"):
        told = told_of(dataclasses.replace(config, images=(named,)))
        assert told == ["listing images", "8 images known, 0 new, 0 changed, 0 gone"]
    (folder / "text.jpg").unlink()
    stays = (
        "the rows of 1 image that the inputs named now do not hold stay; --drop-gone removes them"
    )
    assert told_of(config)[-1] == stays
    dropped = told_of(dataclasses.replace(config, drop_gone=True))
    assert stays not in dropped
    assert "8 images known, 0 new, 0 changed, 1 gone" in dropped


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_a_users_own_column_of_labels(config, folder, several_model, tmp_path):
    """It is kept where results have none of that name, and no page takes it for theirs."""
    paths = sorted(map(str, folder.iterdir()))
    lines = [f"{path},shelf {number}" for number, path in enumerate(paths)]
    shelves = tmp_path / "shelves.csv"
    shelves.write_text("\n".join(["uri,labels", *lines]))
    kept = dataclasses.replace(config, images=(str(shelves),), keep=("labels",))
    classify(kept)
    assert table(kept)["labels"].to_pylist() == [f"shelf {number}" for number in range(len(paths))]
    assert classify(kept).already_complete
    assert not examine(ReportConfig(results=kept.output), Observer()).reader.tally.several

    several = dataclasses.replace(kept, output=str(tmp_path / "several"), model=several_model)
    with pytest.raises(
        UserInputError, match="--keep labels: the results have their own column labels"
    ):
        classify(several)
    plain = dataclasses.replace(several, keep=())
    classify(plain)
    assert table(plain)["labels"].type == pa.list_(pa.string())
    assert examine(ReportConfig(results=plain.output), Observer()).reader.tally.several


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


@pytest.fixture
def lanes(monkeypatch):
    """Three lanes for few images, whose shards have two each."""
    monkeypatch.setattr(in_process, "_LANE_IMAGES", 2)
    monkeypatch.setattr(machine, "usable_cpus", lambda: 3)
    monkeypatch.setattr(drafts, "MAX_SHARD_IMAGES", 2)


def lane_threads():
    return [thread for thread in threading.enumerate() if thread.name == "catdog-lane"]


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_several_lanes_are_as_one(config, lanes, monkeypatch):
    """The same rows, each once; of the lanes nothing is left."""
    del lanes
    seen = []
    lane = actors.Lane.classify

    def classified(self, shard, *, present):
        seen.append((threading.get_ident(), shard))
        return lane(self, shard, present=present)

    monkeypatch.setattr(actors.Lane, "classify", classified)
    several = classify(config)
    assert (several.executor, several.images_this_run) == ("process", 8)
    assert sorted(shard for _, shard in seen) == [0, 1, 2, 3]
    assert len({thread for thread, _ in seen}) > 1
    assert not lane_threads()
    assert not list(decoders())
    monkeypatch.setattr(machine, "usable_cpus", lambda: 1)
    alone = dataclasses.replace(config, output=config.output + "-alone")
    classify(alone)
    assert table(alone).equals(table(config))


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_a_lane_that_fails_ends_the_job(config, lanes, monkeypatch):
    """The others stop, nothing runs on, and the same command does what is left."""
    del lanes
    finish = actors.Scorer.finish

    def fails_once(self, work, *rest):
        if work.shard == 1:
            monkeypatch.setattr(actors.Scorer, "finish", finish)
            raise CatdogError("no room for this shard")
        return finish(self, work, *rest)

    monkeypatch.setattr(actors.Scorer, "finish", fails_once)
    with pytest.raises(CatdogError, match="no room for this shard"):
        classify(config)
    assert not lane_threads()
    assert not list(decoders())
    assert not (Path(config.output) / "_summary.json").exists()
    assert classify(config).images_this_run <= 8
    assert len(table(config)) == 8


class Silent(Answering):
    """Takes requests and never answers."""

    def do_GET(self):  # noqa: N802 - http.server's
        """Nothing."""
        self.server.asked.set()
        time.sleep(60)

    do_HEAD = do_GET  # noqa: N815 - likewise


@pytest.mark.slow
@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_waits_for_a_server(config, tmp_path, sent):
    """A lane that waits for bytes does not hold up the end."""
    with serving(Silent, asked=threading.Event()) as server:
        urls = tmp_path / "urls.txt"
        urls.write_text(f"{server.url}/0.jpg\n{server.url}/1.jpg")
        flags = ("--model", config.model, "--allow-hosts", "127.0.0.1")
        job = catdog("classify", urls, "--output", config.output, *flags)
        assert server.asked.wait(120)
        job.send_signal(sent)
        _, told = job.communicate(timeout=20)
    assert job.returncode == 128 + sent
    assert "run the same command again" in told.splitlines()[-1], told
    assert not list(decoders())


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


class Photos(Answering):
    """Serves the files of a folder, once by a redirect."""

    def do_GET(self):  # noqa: N802 - http.server's
        """A file, or where it is."""
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/moved/"):
            self.answer(302, b"", {"Location": f"/there/{name}"})
        elif (self.server.folder / name).exists():
            self.answer(200, (self.server.folder / name).read_bytes())
        else:
            self.answer(404, b"")


@pytest.mark.skipif(machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out")
def test_images_of_a_web_server(config, folder, tmp_path):
    """A list of URLs, redirects among them, gives the answers that the files have here."""
    here = {row["uri"].rpartition("/")[2]: row for row in table_of(config)}
    with serving(Photos, folder=folder) as server:
        urls = [f"{server.url}/{way}/{name}" for name in here for way in ("moved", "there")]
        (tmp_path / "l.txt").write_text("\n".join([*urls, f"{server.url}/gone.jpg"]))
        stores = Stores(allow_hosts=("127.0.0.1",))
        output = str(tmp_path / "of-the-web")
        web = dataclasses.replace(
            config, images=(str(tmp_path / "l.txt"),), output=output, stores=stores
        )
        rows = table_of(web)
    assert len(rows) == len(urls) + 1
    for row in rows:
        name = row["uri"].rpartition("/")[2]
        told = here.get(name, {"label": None, "scores": None, "error": "missing"})
        assert [row[each] for each in ("label", "scores", "error")] == [
            told[each] for each in ("label", "scores", "error")
        ], row["uri"]


def table_of(config):
    """The rows of a job, which asks stores as its configuration says."""
    api.classify(config)
    return table(config).to_pylist()
