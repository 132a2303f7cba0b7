"""`catdog submit`: what is checked and sent, and a job followed on a real cluster to its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from catdog import submission
from catdog.cli import main

ROOT = Path(__file__).parents[1]
CLASSIFY = ["classify", "s3://b/in", "--output", "s3://b/out", "--model", "s3://b/model"]
SECRET = "no-one-may-read-this-in-an-entrypoint"


def test_dry_run_shows_all_and_needs_no_cluster(capsys):
    """`--dry-run` shows the command, as a shell would take it, and sends nothing."""
    arguments = ["classify", "s3://b/a b.tar", "--output", "s3://b/out", "--model", "s3://b/m"]
    assert main(["submit", *arguments, "--dry-run", "--address", "http://no-such-host:8265"]) == 0
    shown = capsys.readouterr().out
    assert (
        "python -m catdog classify 's3://b/a b.tar' --output s3://b/out --model s3://b/m" in shown
    )
    assert "--dry-run" not in shown
    assert "http://no-such-host:8265" in shown


def test_own_flags_may_stand_anywhere():
    """The flags of `submit` are taken out wherever they stand; the command's stay in order."""
    own, command = submission.split(
        [
            "--dry-run",
            "classify",
            "x",
            "--address=http://h:1",
            "--json",
            "--attach",
            "j",
            "--workers",
            "2",
        ]
    )
    assert own == ["--dry-run", "--address=http://h:1", "--attach", "j"]
    assert command == ["classify", "x", "--json", "--workers", "2"]


def test_credentials_go_only_on_request_and_never_into_what_is_recorded(monkeypatch, capsys):
    """Without the flag no `AWS_*` variable is sent; with it, its name is shown and its value never."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    main(["submit", *CLASSIFY, "--dry-run"])
    assert "AWS_" not in capsys.readouterr().out
    main(["submit", *CLASSIFY, "--dry-run", "--send-aws-credentials"])
    shown = capsys.readouterr().out
    assert "AWS_SECRET_ACCESS_KEY" in shown
    assert "AWS_PROFILE" not in shown
    assert SECRET not in shown
    job = submission.plan_job(CLASSIFY, os.environ)
    assert job.environment["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert SECRET not in job.entrypoint + json.dumps(job.metadata) + job.identifier


def test_sends_the_package_alone(tmp_path):
    """The working directory is the package: no data, results, .git, .venv or caches."""
    files, size = submission.stage(tmp_path)
    sent = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == len(sent)
    assert size == sum((tmp_path / path).stat().st_size for path in sent)
    assert {path.parts[0] for path in sent} == {"catdog"}
    assert Path("catdog/cli.py") in sent
    assert not any("__pycache__" in path.parts for path in sent)
    # What is sent can run: the command line comes up from there.
    subprocess.run(
        [sys.executable, "-m", "catdog", "--version"], cwd=tmp_path, check=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "train, classify"),
        (["fly"], "train, classify"),
        (["demo"], "train, classify"),
        (["submit", *CLASSIFY], "train, classify"),
        ([*CLASSIFY, "--bogus"], "--bogus"),
        ([*CLASSIFY, "--batch-size", "0"], "--batch-size"),
        (["classify", "photos/", "--output", "s3://b/o", "--model", "s3://b/m"], "IMAGES photos/"),
        (["classify", "s3://b/i", "--output", "out", "--model", "s3://b/m"], "--output out"),
        (["classify", "s3://b/i", "--output", "s3://b/o", "--model", "/m"], "--model /m"),
        (["train", "file://x", "--output", "s3://b/o"], "file:///"),
        (
            "train s3://b/i --output s3://b/o --architecture ResNet50 --weights x.keras".split(),
            "--weights x.keras",
        ),
        (["train", f"s3://key:{SECRET}@b/i", "--output", "s3://b/o"], "credentials"),
        (CLASSIFY, "--address"),
        ([*CLASSIFY, "--address", "ray://head:10001"], "ray://head:10001"),
        ([*CLASSIFY, "--address"], "--address"),
        (["--attach", "job"], "--address"),
        (["--attach", "job", *CLASSIFY, "--address", "http://h:8265"], "--attach"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, named, monkeypatch, capsys):
    """Everything is checked before anything is sent; the line names the flag or the file."""
    monkeypatch.delenv(submission.ADDRESS_VARIABLE, raising=False)
    assert main(["submit", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err
    assert SECRET not in err


def test_a_path_of_the_cluster_is_said_so(capsys):
    """`file:///` names a path that every node has, such as a shared file system's."""
    arguments = ["train", "file:///mnt/photos", "--output", "file:///mnt/run"]
    assert main(["submit", *arguments, "--dry-run"]) == 0
    assert "file:///mnt/photos" in capsys.readouterr().out


def test_log_lines_cannot_steer_the_terminal(capsys):
    """A job's log is printed line by line, control characters replaced, the summary apart."""
    output = submission._Output(as_json=True)
    output.write('pro\x1b[2Jgress \x1b[33m(raylet)\x1b[0m\n{"a"')
    output.write(": 1}\n{no json}")
    output.close()
    out, err = capsys.readouterr()
    assert out == '{"a": 1}\n'
    assert "\x1b" not in err
    assert "gress (raylet)\n" in err
    assert err.endswith("{no json}\n")


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "catdog", "submit", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Wire:
    """A TCP line to a port of this machine that can be cut: all its connections end at once."""

    def __init__(self, port):
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections = []
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._connections += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self):
        """End every connection; new ones are taken as before."""
        while self._connections:
            with contextlib.suppress(OSError):
                self._connections.pop().shutdown(socket.SHUT_RDWR)

    def close(self):
        """Take no more connections."""
        self._server.close()
        self.cut()


@pytest.fixture(scope="module")
def cluster():
    """`cluster/local.sh` with one worker: the job server's port, and the token's file."""
    if not shutil.which("setsid"):
        pytest.skip("cluster/local.sh needs setsid")
    port, dashboard = free_ports(2)
    command = [str(ROOT / "cluster" / "local.sh"), "--workers", "1", "--store-mb", "100"]
    command += ["--port", str(port), "--dashboard-port", str(dashboard)]
    process = subprocess.Popen(
        command,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | {"CATDOG_BIN": str(Path(sys.executable).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = ""
        while "token in that file" not in said:
            line = process.stdout.readline()
            assert line, f"the cluster does not start: {said}"
            said += line
        token = Path(re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", said)[1])
        yield dashboard, token
    finally:
        process.terminate()
        process.wait(60)
    # Nothing of it is left: neither its folder nor a process that was started in it.
    assert not token.parent.exists()
    deadline = time.monotonic() + 20
    while left := processes_of(token.parent):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def processes_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.slow
def test_job_from_here_to_its_exit_code(cluster, tiny_run, drawings, tmp_path):
    """Jobs run on the cluster they are sent to; refused, failed and done each have their code.

    One test, because a cluster and its jobs take most of a minute to start.
    """
    dashboard, token = cluster
    direct = f"http://127.0.0.1:{dashboard}"
    token_environment = {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token"}

    # Only this user can read the token, and nobody gets in without it.
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
    for header in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
            urllib.request.urlopen(urllib.request.Request(direct + "/api/jobs/", headers=header))
    refused = run("--attach", "any", "--address", direct, RAY_AUTH_TOKEN="wrong")
    assert refused.returncode == 2
    assert "token" in refused.stderr
    assert refused.stderr.count("\n") == 1

    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    for picture in sorted((drawings / "cat").iterdir())[:8]:
        shutil.copy(picture, images / "cat")
    (images / "cat" / "broken.jpg").write_bytes(b"not a picture")
    results = tmp_path / "results"
    command = ["classify", images.as_uri(), "--output", results.as_uri(), "--model", tiny_run.model]

    # One image too many is rejected: exit code 1. The line is cut again and again meanwhile, and
    # each line of the log still arrives once.
    wire = Wire(dashboard)
    failing = [*command, "--max-rejected", "0"]
    job = subprocess.Popen(
        [sys.executable, "-m", "catdog", "submit", *failing, "--address", wire.address],
        env=os.environ | token_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in job.stdout:
        lines.append(line)
        if "Running entrypoint" in line or "listing images" in line:
            wire.cut()
    _, errors = job.communicate(timeout=60)
    wire.close()
    log = "".join(lines)
    assert job.returncode == 1, log + errors
    assert "connection lost" in errors
    assert "connected again" in errors
    assert log.count("Running entrypoint") == log.count("listing images") == 1
    assert "not-an-image" in log
    assert "--max-rejected" in log
    assert (results / "_summary.json").exists()

    # The same log and the same code again, from a job that has ended.
    identifier = re.search(r"as job (\S+)", errors)[1]
    again = run("--attach", identifier, "--address", direct, **token_environment)
    assert (again.returncode, again.stdout) == (1, log)

    # The same results asked for again: nothing left to do, exit code 0, the summary on its own.
    done = run(
        *command, "--max-rejected", "0.5", "--json", "--address", direct, **token_environment
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["already_complete"]
    assert (summary["classified"], summary["rejected"]) == (8, 1)

    # What only the cluster can find out is the user's mistake all the same: exit code 2.
    wrong = run(*command[:-1], "file:///no/such/model", "--address", direct, **token_environment)
    assert wrong.returncode == 2
    assert "/no/such/model" in wrong.stdout

    # The first Ctrl-C detaches and says how to come back, the second one stops the job.
    long = ["train", drawings.as_uri(), "--output", (tmp_path / "run").as_uri(), "--epochs", "9999"]
    job = subprocess.Popen(
        [sys.executable, "-m", "catdog", "submit", *long, "--address", direct],
        env=os.environ | token_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "Running entrypoint" not in job.stdout.readline():
        pass
    job.send_signal(signal.SIGINT)
    said = ""
    while "Ctrl-C again" not in said:
        said += job.stderr.readline()
    assert "catdog submit --attach" in said
    job.send_signal(signal.SIGINT)
    assert job.wait(60) == 130
    identifier = re.search(r"--attach (\S+)", said)[1]
    stopped = run("--attach", identifier, "--address", direct, **token_environment)
    assert stopped.returncode == 1
    assert "was stopped" in stopped.stderr
