"""Whatever is ended, whenever: the results are those of an undisturbed run, row for row."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import storage
from catdog.classification import ClassifyConfig, classify
from catdog.results import plans
from tests import strangers
from tests.jobs import actors, catdog, decoders, wait_for

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.slow

IMAGES = 4992  # 52 shards of 64, 128 and 256
BROKEN = {"empty.jpg": b"", "text.jpg": b"no picture at all"}


@pytest.fixture(scope="session")
def archive(drawings, tmp_path_factory):
    """A tar of drawings, each several times, with two members that are no images."""
    path = tmp_path_factory.mktemp("exactly-once") / "images.tar"
    pictures = [each.read_bytes() for each in sorted(drawings.rglob("*.jpg"))]
    members = {
        f"{number:05d}.jpg": pictures[number % len(pictures)]
        for number in range(IMAGES - len(BROKEN))
    }
    with tarfile.open(path, "w") as tar:
        for name, data in (members | BROKEN).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def undisturbed(archive, tiny_run, tmp_path_factory):
    """The configuration of a job that nobody disturbed.

    Images are scored one by one: what else is in a batch, which depends on who died when, would
    change the last bits of a score.
    """
    config = ClassifyConfig(
        images=(str(archive),),
        output=str(tmp_path_factory.mktemp("undisturbed") / "results"),
        model=tiny_run.output,
        workers=2,
        batch_size=1,
    )
    assert classify(config).planned == IMAGES
    return config


def arguments_of(config: ClassifyConfig) -> list[object]:
    flags = ("--workers", config.workers, "--batch-size", config.batch_size)
    return [
        "classify",
        *config.images,
        "--output",
        config.output,
        "--model",
        config.model,
        *flags,
        "--json",
        "--no-report",
    ]


def table(config: ClassifyConfig):
    filesystem, path = storage.filesystem(storage.to_uri(config.output))
    return pq.read_table(path, filesystem=filesystem).sort_by("uri")


class Killer:
    """Ends processes of a job at random moments; remembers what it did."""

    def __init__(self, seed: int, output: Path) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.log: list[str] = []
        self._output = output

    def parts(self) -> int:
        """Shards that are done."""
        return len(list(self._output.glob("part-*")))

    def wait(self, driver: subprocess.Popen[str]) -> None:
        """Until a random moment of the job: after some time, or around the end of a shard."""
        deadline = time.monotonic() + 60
        shards = self.parts() + 1
        if self.chance.random() < 0.3:
            deadline, shards = time.monotonic() + self.chance.uniform(0, 2), IMAGES
        while driver.poll() is None and time.monotonic() < deadline and self.parts() < shards:
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0, 0.1))

    def strike(self, driver: subprocess.Popen[str], victim: str) -> None:
        """End the driver, or an actor or a decoding process if there is one now."""
        found = {
            "driver": lambda: [driver.pid],
            "actor": lambda: sorted(actors()),
            "decoder": lambda: sorted(decoders()),
        }[victim]()
        if found and driver.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(found), signal.SIGKILL)
                self.log.append(f"{victim} after {self.parts()} shards")


class Folder:
    """A folder of pictures that changes between the runs of a job."""

    def __init__(self, path: Path, pictures: list[bytes], chance: random.Random) -> None:
        path.mkdir()
        self._path, self._pictures, self._chance = path, pictures, chance
        self._names: list[str] = []

    def change(self) -> None:
        """Some pictures come, one becomes another one, one breaks, and so may have one before."""
        for _ in range(30):
            self._names.append(f"{len(self._names):04d}.jpg")
            self._write(self._names[-1])
        self._write(self._chance.choice(self._names))
        (self._path / self._chance.choice(self._names)).write_bytes(b"no picture at all")

    def _write(self, name: str) -> None:
        (self._path / name).write_bytes(self._chance.choice(self._pictures))


@pytest.mark.parametrize("seed", [20261122])
def test_kills_at_random_moments(undisturbed, archive, drawings, tmp_path, seed, ray_cluster):
    """Driver, workers and decoding processes are ended again and again, at any moment.

    Between the runs pictures come and change, and rejected ones are tried again. The drivers share a
    cluster, so that the actors of a dead one may still write.
    """
    import ray

    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    killer = Killer(seed, tmp_path / "results")
    pictures = [each.read_bytes() for each in sorted(drawings.rglob("*.jpg"))]
    folder = Folder(tmp_path / "more", pictures, killer.chance)
    config = dataclasses.replace(
        undisturbed,
        images=(str(archive), str(tmp_path / "more")),
        output=str(tmp_path / "results"),
    )
    try:
        for number in range(6):
            folder.change()
            retry = ["--retry-rejected"] * (number % 2)
            driver = catdog(*arguments_of(config), *retry, environment=cluster)
            for victim in killer.chance.choices(["actor", "decoder"], k=2):
                killer.wait(driver)
                killer.strike(driver, victim)
            killer.wait(driver)
            killer.strike(driver, "driver")
            told, errors = driver.communicate(timeout=90)
            assert driver.returncode in (0, -signal.SIGKILL), errors
        driver = catdog(*arguments_of(config), environment=cluster)
        told, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
        summary = json.loads(told)
        assert len(killer.log) >= 6
        alone = dataclasses.replace(
            config, images=(str(tmp_path / "more"),), output=str(tmp_path / "alone")
        )
        fresh = classify(alone)
        assert summary["planned"] == summary["classified"] + summary["rejected"]
        assert summary["planned"] == IMAGES + fresh.planned
        assert summary["errors"] == {"empty": 1, "not-an-image": 1 + fresh.rejected}
        expected = pa.concat_tables([table(undisturbed), table(alone)]).sort_by("uri")
        assert table(config).equals(expected)
    finally:
        # pytest shows it when the test fails
        print(f"seed {killer.seed}:", *killer.log, sep="\n  ")  # noqa: T201


def test_a_task_of_several_shards_goes_on_where_its_worker_died(
    undisturbed, tmp_path, ray_cluster, monkeypatch
):
    """At most the shard that was begun is done again, and none that was written."""
    monkeypatch.setattr(plans, "_MAX_TASKS", 4)
    output = str(tmp_path / "results")
    config = dataclasses.replace(undisturbed, output=output, workers=1, batch_size=32)
    killer = Killer(0, tmp_path / "results")
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(classify, config)
        wait_for(lambda: killer.parts() > 4 or job.done(), 60)
        for each in actors():
            os.kill(each, signal.SIGKILL)
        summary = job.result()
    assert summary.images_this_run == IMAGES
    assert sum(summary.retried_shards.values()) <= 1
    known = ["uri", "width", "error"]  # scores differ in their last bits by the batch
    assert table(config).select(known).to_pylist() == table(undisturbed).select(known).to_pylist()


FAULTS = {
    "file": [
        "before */*-00000.parquet",
        "before */_run.json",
        "after */_run.json",
        "before */0001.json",
        "after */0001.json",
        "before */part-0000000-*",
        "after */part-0000001-*",
        "before */part-0000030-*",
        "before */_summary.json",
        "after */_summary.json",
    ],
    "s3": [
        "before */0001.json",
        "before */part-0000000-*",
        "after */part-0000001-*",
        "before */_summary.json",
    ],
}


@pytest.mark.parametrize("where", FAULTS)
def test_kills_between_write_and_commit(undisturbed, tmp_path, where, request):
    """Ended between writing a file and giving it its name, or right after, nothing is lost.

    Neither is a half-written file taken for a whole one, nor are a whole one's rows there twice.
    """
    server = {}
    output = (tmp_path / "results").as_uri()
    if where == "s3":
        output = request.getfixturevalue("s3") + "/results"
        server = request.getfixturevalue("s3_server").environment
    config = dataclasses.replace(undisturbed, output=output)
    faults = tmp_path / "faults"
    faults.mkdir()
    for number, fault in enumerate(FAULTS[where]):
        (faults / str(number)).write_text(fault)
    python_path = os.pathsep.join([str(Path(__file__).parents[1] / "faults"), *sys.path])
    faulty = {"PYTHONPATH": python_path, "CATDOG_FAULTS": str(faults)} | server
    ends = []
    # One for all drivers, with the faults in its workers as well.
    with strangers.started(**faulty) as cluster:
        environment = cluster.environment | faulty | {"RAY_ADDRESS": cluster.address}
        while not ends or ends[-1]:
            left = set(faults.iterdir())
            driver = catdog(*arguments_of(config), environment=environment)
            told, errors = driver.communicate(timeout=180)
            ends.append(driver.returncode)
            assert driver.returncode in (0, -signal.SIGKILL), errors
            assert driver.returncode == 0 or set(faults.iterdir()) < left, "it died of a fault"
    assert not list(faults.iterdir()), "each of them was met"
    drivers = sum("part-" not in fault for fault in FAULTS[where])
    assert ends == [-signal.SIGKILL] * drivers + [0]
    assert json.loads(told)["planned"] == IMAGES
    assert table(config).to_pylist() == table(undisturbed).to_pylist()
    assert json.loads(told)["already_complete"] == (where == "file")
