"""Whole jobs of classification against a real S3 server that throttles, dies and refuses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import storage
from catdog.classification import ClassifyConfig, classify
from catdog.results import part_files, plans
from tests.jobs import catdog, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import S3Server

pytestmark = pytest.mark.slow

IMAGES = 800
BROKEN = {"empty.jpg": b"", "text.jpg": b"no picture at all", "sp ace #1 ?%20ü.jpg": b"GIF8"}
SECRET = "no-one-may-read-this-in-an-error"


class Local(NamedTuple):
    """The same job on local disks, undisturbed."""

    images: Path
    model: Path
    table: pa.Table
    errors: dict[str, int]


@pytest.fixture(scope="session")
def local(drawings, tiny_run, ray_cluster, tmp_path_factory):
    """The table that all jobs in here are to come to."""
    folder = tmp_path_factory.mktemp("s3-jobs")
    pictures = sorted(drawings.rglob("*.jpg"))
    for number in range(IMAGES - len(BROKEN)):
        target = folder / "images" / f"{number % 7}" / f"{number:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures[number % len(pictures)], target)
    for name, data in BROKEN.items():
        (folder / "images" / name).write_bytes(data)
    config = ClassifyConfig(
        images=(str(folder / "images"),),
        output=str(folder / "results"),
        model=tiny_run.output,
        workers=2,
        batch_size=1,  # what else is in a batch would change the last bits of a score
    )
    summary = classify(config)
    model = Path(storage.local_path(tiny_run.model))
    rows = pq.read_table(folder / "results")
    return Local(folder / "images", model, _by_name(rows), summary.errors)


def _by_name(rows: pa.Table) -> pa.Table:
    rows = rows.select([name for name in rows.column_names if name != "source_uri"])  # all null
    names = [uri.split("/images/", 1)[1] for uri in rows["uri"].to_pylist()]
    return rows.set_column(0, "uri", pa.array(names)).sort_by("uri")


class Job(NamedTuple):
    """A job with everything in one store."""

    folder: str
    server: S3Server

    @property
    def output(self) -> str:
        """Where its results go."""
        return f"{self.folder}/results"

    def start(self):
        """The command in a process and a cluster of its own."""
        arguments = ("classify", f"{self.folder}/images/", "--output", self.output)
        arguments += ("--model", f"{self.folder}/model", "--workers", 2, "--batch-size", 1)
        return catdog(*arguments, "--json", "--no-report", environment=self.server.environment)

    def parts(self) -> int:
        """Shards that are done."""
        return sum(name.startswith("part-") for name in storage.list_names(self.output))

    def check(self, local: Local, told: str, errors: str) -> None:
        """It came to the table of the local job, and repeats no secret."""
        summary = json.loads(told)
        assert summary["planned"] == IMAGES
        assert summary["errors"] == local.errors
        plan = plans.read(self.output)
        shards = [part_files.read_part(plan, shard) for shard in range(plan.shards)]
        assert _by_name(pa.concat_tables(shards)).equals(local.table)
        record = storage.read_bytes(storage.join(self.output, "_run.json"), 10**6).decode()
        assert SECRET not in record + told + errors


def upload(local: Local, uri: str) -> None:
    files = {f"model/{path.name}": path for path in local.model.iterdir()}
    for path in local.images.rglob("*"):
        if path.is_file():
            files[f"images/{path.relative_to(local.images)}"] = path
    with ThreadPoolExecutor(8) as pool:
        for done in [
            pool.submit(storage.write_atomic, storage.join(uri, name), path.read_bytes())
            for name, path in files.items()
        ]:
            done.result()


@pytest.fixture
def job(s3, s3_server, local) -> Job:
    """A job on the server that all tests share."""
    upload(local, s3)
    return Job(s3, s3_server)


@pytest.fixture
def own_job(s3_server, local, tmp_path, monkeypatch) -> Iterator[Job]:
    """A job on a server that the test may kill."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = type(s3_server)(folder)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    upload(local, "s3://pictures/a")
    yield Job("s3://pictures/a", server)
    server.kill()


def test_all_on_s3(job, local):
    """Images, model and results in a bucket: the local table again, and no secret in a record."""
    driver = job.start()
    job.check(local, *driver.communicate(timeout=240))
    assert driver.returncode == 0


def test_throttling_costs_time_only(job, local, caplog):
    """A store that answers 503 for a part of the run: nothing is lost or rejected for it."""
    driver = job.start()
    wait_for(lambda: job.parts() or driver.poll() is not None, 120)
    breaker = "s3.circuitBreaker -global -type Count -actions Read,Write,List -values 1,1,1 -apply"
    job.server.shell(breaker)
    try:
        wait_for(lambda: throttles(job, caplog), 60)
        assert driver.poll() is None, "it was not done before"
        time.sleep(3)
    finally:
        job.server.shell("s3.circuitBreaker -delete -apply")
    told, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    job.check(local, told, errors)


def throttles(job: Job, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether some of many requests at once had to be repeated."""
    with caplog.at_level(logging.DEBUG, "catdog.storage.failures"), ThreadPoolExecutor(16) as pool:
        list(
            pool.map(lambda _: storage.size_and_stamp(f"{job.folder}/images/empty.jpg"), range(32))
        )
    return "throttled" in caplog.text


def test_a_restart_of_the_store_is_ridden_out(own_job, local):
    """A server killed in the middle of a job and started again soon: the job goes on by itself."""
    driver = own_job.start()
    wait_for(lambda: own_job.parts() or driver.poll() is not None, 120)
    own_job.server.kill()
    assert driver.poll() is None
    threading.Timer(2.0, own_job.server.start).start()
    told, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    own_job.check(local, told, errors)


def test_a_dead_store_stops_the_job_and_a_living_one_resumes_it(own_job, local):
    """A server that stays away: exit 1 and one line; started again, the rerun does the rest."""
    driver = own_job.start()
    wait_for(lambda: own_job.parts() or driver.poll() is not None, 120)
    own_job.server.kill()
    _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 1, errors
    assert "unreachable" in errors.splitlines()[-1]
    assert SECRET not in errors
    own_job.server.start()
    done = own_job.parts()
    assert not storage.exists(storage.join(own_job.output, "_summary.json"))
    driver = own_job.start()
    told, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    own_job.check(local, told, errors)
    assert done
    assert json.loads(told)["images_this_run"] <= IMAGES - 64 * done


GUEST = {"AWS_ACCESS_KEY_ID": "AKIAGUEST2", "AWS_SECRET_ACCESS_KEY": "guestsecret"}


WRONG = {"AWS_SECRET_ACCESS_KEY": "another-secret"}
NOWHERE = "s3://no-such-bucket-here/x"


@pytest.mark.parametrize(
    ("what", "trouble", "said"),
    [
        ("images", WRONG, "refuses the AWS credentials"),
        ("--model", WRONG, "refuses the AWS credentials"),
        ("--output", WRONG, "refuses the AWS credentials"),
        ("images", GUEST, "no permission to read it"),
        ("--model", GUEST, "denies access"),
        ("--output", GUEST, "denies access"),
        ("images", NOWHERE, "no such file, folder or prefix"),
        ("--model", NOWHERE, "no finished model there"),
    ],
)
def test_a_store_that_refuses_is_the_users_error(
    s3, s3_server, local, tiny_run, tmp_path, what, trouble, said
):
    """One line that names the input or the flag, exit code 2, no secret; nothing is begun."""
    storage.write_atomic(f"{s3}/x.jpg", b"x")
    line = "s3.configure -user=guest2 -access_key=AKIAGUEST2 -secret_key=guestsecret"
    s3_server.shell(f"{line} -buckets=elsewhere -actions=Read,List,Write -apply")
    places = {
        "images": str(local.images),
        "--model": str(local.model),
        "--output": str(tmp_path / "results"),
    }
    places[what] = trouble if isinstance(trouble, str) else s3
    given = {} if isinstance(trouble, str) else trouble
    arguments = ("--output", places["--output"], "--model", places["--model"], "--no-report")
    driver = catdog(
        "classify", places["images"], *arguments, environment=s3_server.environment | given
    )
    _, errors = driver.communicate(timeout=120)
    last = errors.splitlines()[-1]
    assert driver.returncode == 2, errors
    assert (places[what] if what == "images" else f"{what} {places[what]}") in last
    assert said in last
    assert "Traceback" not in errors
    for secret in (SECRET, "another-secret", "guestsecret"):
        assert secret not in errors
    assert not list(tmp_path.glob("results/part-*"))


def test_what_the_store_does_not_give_costs_its_rows(s3, s3_server, local, tmp_path):
    """Objects that are gone, or that the keys may not read, are rows with their reasons."""
    good = (local.images / "0" / "0000.jpg").read_bytes()
    storage.write_atomic(f"{s3}/x.jpg", good)
    line = "s3.configure -user=guest2 -access_key=AKIAGUEST2 -secret_key=guestsecret"
    s3_server.shell(f"{line} -buckets=elsewhere -actions=Read,List,Write -apply")
    s3_server.shell("s3.bucket.create -name elsewhere")
    storage.write_atomic("s3://elsewhere/x.jpg", good)
    uris = ["s3://elsewhere/x.jpg", "s3://elsewhere/gone.jpg", f"{s3}/x.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(uris))
    arguments = ("classify", tmp_path / "list.txt", "--output", tmp_path / "results")
    arguments += ("--model", local.model, "--max-rejected", 1, "--json", "--no-report")
    driver = catdog(*arguments, environment=s3_server.environment | GUEST)
    told, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert json.loads(told)["errors"] == {"missing": 1, "forbidden": 1}
    rows = pq.read_table(tmp_path / "results").to_pylist()
    assert {row["uri"]: row["error"] for row in rows} == dict(
        zip(uris, [None, "missing", "forbidden"], strict=True)
    )
