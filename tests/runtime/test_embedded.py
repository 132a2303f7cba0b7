"""Jobs without an address: closed to neighbours, at home where little is as usual, gone when told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jobs
from catdog import scratch

pytestmark = pytest.mark.slow

LISTENS = "0A"
LOOPBACK = re.compile(r"0100007F|0{16}FFFF00000100007F|0{24}01000000")  # as /proc/net/tcp has it
# Somebody without a name and a home; the files still belong to this account.
WITHOUT_A_NAME = ("unshare", "--user", "--map-user=12345", "--map-group=12345")


class Job:
    """A command in a process of its own, what it writes, and how it ends."""

    def __init__(self, folder, *arguments, prefix=(), python=sys.executable, environment=None):
        self.output = folder / "output.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*prefix, str(python), "-m", "catdog", *map(str, arguments)],
                stdout=output,
                stderr=output,
                env=os.environ | (environment or {}),
            )

    def wait_for(self, words, timeout_s=120):
        """Until it has written this, which it must not end without."""

        def written():
            assert self.process.poll() is None, self.output.read_text()
            return words in self.output.read_text()

        jobs.wait_for(written, timeout_s)

    def terminate(self):
        """Its last line, after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(25) == 143, self.output.read_text()
        return self.output.read_text().splitlines()[-1]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts jobs that end with the test."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started = []

    def start(*arguments, **keywords):
        started.append(Job(tmp_path, *arguments, **keywords))
        return started[-1]

    yield start
    for job in started:
        job.process.kill()
        job.process.wait()


def descendants(process):
    """Ids of all processes that descend from one, itself included."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(status[1])
    found = {process}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def opened(processes, *kinds):
    """What the links of these kinds (`fd`, `map_files`) of the processes lead to."""
    for process in processes:
        for kind in kinds:
            for link in Path(f"/proc/{process}/{kind}").glob("*"):
                try:
                    yield link.readlink()
                except OSError:
                    continue


def listening(processes):
    """Address and port, in hexadecimal figures, of each TCP socket that these processes listen on."""
    inodes = {str(path) for path in opened(processes, "fd")}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and f"socket:[{fields[9]}]" in inodes:
                yield tuple(fields[1].split(":"))


def held_open(processes):
    """Files outside of the system's own folders that these processes have open or in their memory."""
    shared = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/")
    # The interpreter and its packages may lie there as well, for all to read.
    own = (sys.prefix, str(Path(__file__).parents[2]))
    found = {path for path in opened(processes, "fd", "map_files") if path.exists()}
    return {
        path
        for path in found
        if str(path).startswith(shared) and not any(path.is_relative_to(each) for each in own)
    }


def sockets_without_a_file(processes):
    """Names of sockets of Linux' abstract kind, which whoever knows the name may connect to."""
    inodes = {str(path) for path in opened(processes, "fd")}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {
        line[7]
        for line in lines
        if len(line) > 7 and line[7].startswith("@") and f"socket:[{line[6]}]" in inodes
    }


def folders_of(processes):
    """Private folders that these processes were started with."""
    found = set()
    for process in processes:
        try:
            command = Path(f"/proc/{process}/cmdline").read_text(errors="replace")
        except OSError:
            continue
        found |= set(re.findall(rf"=(/[^\0=]*?/{scratch.PREFIX}\w+)", command))
    return [Path(each) for each in found]


def as_nobody(code):
    """What a child under the account `nobody` prints that runs this code; no interpreter starts."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            result = code()
        except OSError as error:
            result = type(error).__name__
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return json.load(answer)


def connect_to(path):
    """Connect to a socket of the filesystem."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))


def answer_without_token(port):
    """The name of the status that Ray's GCS gives to a caller without a token."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        try:
            call(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def check_closed(processes):
    """Nothing beyond loopback; nothing for another account; nothing without the token."""
    ports = set(listening(processes))
    assert ports
    from ray import _raylet  # before 2.52 it has no tokens

    assert [each for each in ports if not LOOPBACK.fullmatch(each[0])] == []
    folders = folders_of(processes)
    sockets = [path for folder in folders for path in folder.glob("r/session_2*/sockets/*")]
    assert {path.name for path in sockets} == {"raylet", "plasma_store"}
    for folder in folders:
        assert folder.stat().st_mode & 0o777 == 0o700
    (token,) = (path for folder in folders for path in folder.glob("token"))
    assert token.stat().st_mode & 0o777 == 0o600
    if hasattr(_raylet, "AuthenticationTokenLoader"):
        codes = {answer_without_token(int(port, 16)) for _, port in ports}
        assert "UNAUTHENTICATED" in codes
        assert "OK" not in codes
    assert sockets_without_a_file(processes) == set()
    if os.geteuid() == 0:
        held = held_open(processes)
        assert any("logs" in path.parts for path in held)
        for path in held:
            said = as_nobody(lambda path=path: path.open("rb").close())
            assert said == "PermissionError", path
        for folder in folders:
            assert as_nobody(lambda folder=folder: len(list(folder.iterdir()))) == "PermissionError"
        for path in sockets:
            aside = path.with_name("aside")
            assert as_nobody(lambda path=path, aside=aside: path.rename(aside)) == "PermissionError"
            assert as_nobody(lambda path=path: connect_to(path)) == "PermissionError"


def check_gone(processes, places):
    """No process, and no file of any kind."""
    jobs.wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in processes), 5)
    assert [path for place in places for path in place.iterdir()] == []


def test_training_where_little_is_as_usual(tmp_path, drawings, start):
    """And closed to neighbours, and gone after SIGTERM.

    The interpreter under a path with a space, an account without name and home, a folder for
    temporary files whose path is too long for sockets, proxies that lead nowhere, no locale.
    """
    place = tmp_path / ("long" * 30)
    place.mkdir()
    place.parent.joinpath("my ü env").symlink_to(sys.prefix)
    python = place.parent / "my ü env" / "bin" / Path(sys.executable).name
    nowhere = "http://127.0.0.1:9"
    environment = {"TMPDIR": str(place), "LANG": "C", "LC_ALL": "C"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY"), nowhere)
    prefix = ["env", "-u", "HOME"]
    if subprocess.run([*WITHOUT_A_NAME, "true"], check=False).returncode == 0:
        prefix += WITHOUT_A_NAME
    short = set(Path("/tmp").glob(f"{scratch.PREFIX}*"))
    job = start(
        *("train", drawings, "--output", tmp_path / "run", "--workers", "2", "--epochs", "500"),
        *("--architecture", "article", "--height", "64", "--width", "72", "--batch-size", "16"),
        prefix=prefix,
        python=python,
        environment=environment,
    )
    job.wait_for("val_acc")  # an epoch has ended
    processes = descendants(job.process.pid)
    check_closed(processes)
    folders = folders_of(processes)
    assert not set(folders) & short
    line = job.terminate()
    assert line.startswith(
        "catdog train: stopped by SIGTERM; run the same command again: it continues"
    )
    check_gone(processes, [place])
    assert not any(folder.exists() for folder in folders)
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_classifying_on_one_cpu_of_many(tmp_path, drawings, start):
    """One worker on the CPU that it may use; closed to neighbours; gone after SIGTERM."""
    place = tmp_path / "t"
    place.mkdir()
    one = str(min(os.sched_getaffinity(0)))
    job = start(
        *("classify", drawings, "--output", tmp_path / "results", "--no-report"),
        *("--workers", "1"),  # asks for Ray
        prefix=("taskset", "-c", one),
        environment={"TMPDIR": str(place)},
    )
    job.wait_for("starting 1 worker")
    processes = descendants(job.process.pid)
    check_closed(processes)
    line = job.terminate()
    assert line.startswith(
        "catdog classify: stopped by SIGTERM; run the same command again: it continues"
    )
    check_gone(processes, [place])


@pytest.mark.long
@pytest.mark.parametrize("verb", ["evaluate", "demo"])
def test_other_commands(tmp_path, drawings, start, verb):
    """Closed to neighbours, and gone after SIGTERM, as training and classifying are."""
    place = tmp_path / "t"
    place.mkdir()
    arguments = {
        "evaluate": (drawings, "--output", tmp_path / "evaluation", "--workers", "1"),
        "demo": ("--output", tmp_path / "demo"),
    }
    job = start(verb, *arguments[verb], environment={"TMPDIR": str(place)})
    job.wait_for("starting")  # workers, by Ray
    processes = descendants(job.process.pid)
    check_closed(processes)
    # What stays is readable as the account's umask has it, and no other account may write it.
    kept = [path for path in tmp_path.rglob("*") if place not in (path, *path.parents)]
    assert [path for path in kept if path.lstat().st_mode & 0o022 and not path.is_symlink()] == []
    assert "stopped by SIGTERM" in job.terminate()
    check_gone(processes, [place])


def test_told_to_end_while_ray_starts(tmp_path, drawings, start):
    """Two of its agents would live on for up to a minute."""
    place = tmp_path / "t"
    place.mkdir()
    job = start(
        *("train", drawings, "--output", tmp_path / "run", "--epochs", "1"),
        environment={"TMPDIR": str(place)},
    )
    jobs.wait_for(lambda: list(place.glob(f"{scratch.PREFIX}*")), 60)
    time.sleep(1.0)  # of the three or more that its start takes
    processes = descendants(job.process.pid)
    assert "stopped by SIGTERM" in job.terminate()
    check_gone(processes, [place])


def test_told_to_end_after_ray_has_ended(tmp_path):
    """Ray's C++ part takes this process's handler of SIGTERM away as it ends."""
    program = """
import os, signal
from catdog.runtime import ray_quirks

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
with ray_quirks.connect(None):
    pass
os.kill(os.getpid(), signal.SIGTERM)
print("heard", len(heard))
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "heard 1\n"), done.stderr


@pytest.mark.long  # Ray waits for half a minute
def test_ray_that_does_not_come_up_is_one_line(tmp_path, drawings):
    """Its raylet is not there in time, as on a machine that is too busy: one line, exit code 1, nothing left."""
    program = """
import sys
from ray._private import services
from catdog import cli

services.RAYLET_EXECUTABLE = "/bin/false"
sys.exit(cli.main(sys.argv[1:]))
"""
    place = tmp_path / "t"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = ("classify", drawings, "--output", tmp_path / "out", "--workers", "1")
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True,
        text=True,
        env=environment | {"TMPDIR": str(place)},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("catdog classify: ")]
    assert "Ray does not start on this machine: The current node timed out" in line
    assert "Traceback" not in done.stderr
    assert not list(place.glob(f"{scratch.PREFIX}*"))


def test_death_for_want_of_memory_says_so(tmp_path, drawings, start, control_group):
    """With the limit and what to lower, in place of all that may have been the cause."""
    limit = 1200 * 2**20
    job = start(
        *("train", drawings, "--output", tmp_path / "run", "--workers", "2", "--epochs", "2"),
        prefix=control_group("memory", limit_in_bytes=limit),
    )
    assert job.process.wait(120) == 1
    line = job.output.read_text().splitlines()[-1]
    assert "memory ran out: 1.2 GiB are allowed" in line
    assert "lower --workers or --batch-size" in line
