"""`catdog submit`: what is checked and sent, and a job followed on a real cluster to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from catdog.cli.commands import main
from catdog.runtime import dependencies, package
from catdog.submission import job as submission

ROOT = Path(__file__).parents[2]
CLASSIFY = ["classify", "s3://bkt/in", "--output", "s3://bkt/out", "--model", "s3://bkt/model"]
SECRET = "no-one-may-read-this-in-an-entrypoint"


def test_dry_run_shows_all_and_needs_no_cluster(capsys):
    """`--dry-run` shows the command, as a shell would take it, and sends nothing."""
    arguments = [
        "classify",
        "s3://bkt/a b.tar",
        "--output",
        "s3://bkt/out",
        "--model",
        "s3://bkt/m",
    ]
    assert main(["submit", *arguments, "--dry-run", "--address", "http://no-such-host:8265"]) == 0
    shown = capsys.readouterr().out
    assert (
        "python -m catdog classify 's3://bkt/a b.tar' --output s3://bkt/out --model s3://bkt/m"
        in shown
    )
    assert "--dry-run" not in shown
    assert "http://no-such-host:8265" in shown
    sizes = dict(re.findall(r"^ +(catdog/\w+/): \d+ files, ([\d,.]+) kB$", shown, re.MULTILINE))
    assert {"catdog/classification/", "catdog/weights/"} <= sizes.keys()
    (total,) = re.findall(r"^sends .*: \d+ files, ([\d,]+) kB$", shown, re.MULTILINE)
    in_folders = sum(float(size.replace(",", "")) for size in sizes.values())
    assert in_folders <= float(total.replace(",", "")) + 1


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


def test_install_names_the_lock_that_the_command_needs(capsys):
    """`classify` gets on without TensorFlow, unless it is asked for; all else takes the whole lock."""
    assert main(["submit", *CLASSIFY, "--install", "--dry-run"]) == 0
    assert "catdog/runtime/classify.lock" in capsys.readouterr().out
    train = ["train", "s3://bkt/in", "--output", "s3://bkt/out"]
    with_tensorflow = ["--engine", "tensorflow"]
    for command in (train, [*CLASSIFY, *with_tensorflow], ["evaluate", *CLASSIFY[1:]]):
        assert main(["submit", *command, "--install", "--dry-run"]) == 0
        assert "catdog/runtime/all.lock" in capsys.readouterr().out
    assert main(["submit", *CLASSIFY, "--dry-run"]) == 0
    assert ".lock" not in capsys.readouterr().out
    named_so = ["classify", "s3://bkt/in", "--output", "s3://bkt/out", "--uri-column", "tensorflow"]
    assert main(["submit", *named_so, "--install", "--dry-run"]) == 0
    assert "catdog/runtime/classify.lock" in capsys.readouterr().out


def test_an_installation_that_failed_is_tried_again():
    """Two jobs differ for Ray, which remembers failures, and want the same environment installed."""
    one, two = (submission.plan_job(CLASSIFY, {}, install=True).dependencies for _ in range(2))
    assert one != two
    assert one["uv"] == two["uv"]


@pytest.mark.parametrize("name", ["all.lock", "classify.lock"])
def test_the_locks_that_travel_agree_with_the_projects(name):
    """Nodes get the versions that are tested here, each by its hash, and never another Ray."""
    whole = (ROOT / "requirements.lock").read_text()
    lock = (ROOT / "catdog" / "runtime" / name).read_text()
    lines = [line for line in lock.splitlines() if re.match(r"[a-z]", line)]
    assert len(lines) > 60
    pins = [re.match(r"\S+==\S+", line)[0] for line in lines]
    assert [pin for pin in pins if f"\n{pin} " not in f"\n{whole}"] == []
    assert lock.count("--hash=sha256:") >= len(lines)
    assert not [line for line in lines if line.startswith("ray==")]
    assert ("tensorflow==" in lock) == (name == "all.lock")


def test_the_sent_package_has_its_locks(tmp_path):
    """They are where the job's runtime environment looks for them."""
    package.stage(tmp_path)
    for tensorflow in (False, True):
        line, _ = dependencies.runtime_env("job", tensorflow=tensorflow)["uv"]["packages"]
        place = line.removeprefix("-r ").replace(
            "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}", str(tmp_path)
        )
        assert Path(place).is_file()


def test_a_python_without_dependencies_says_so(tmp_path):
    """A job that meets Ray alone ends in one line with what to do, and no traceback."""
    code = "import sys; sys.modules['tyro'] = None; import runpy; runpy.run_module('catdog')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "this Python has no tyro" in done.stderr
    assert "catdog submit --install" in done.stderr
    assert "Traceback" not in done.stderr


def test_sends_the_package_alone(tmp_path):
    """The working directory is the package: no data, results, .git, .venv or caches."""
    files, size = package.stage(tmp_path)
    sent = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == len(sent)
    assert size == sum((tmp_path / path).stat().st_size for path in sent)
    assert {path.parts[0] for path in sent} == {"catdog"}
    assert Path("catdog/cli/commands.py") in sent
    assert not any("__pycache__" in path.parts for path in sent)
    # What is sent can run: the command line comes up from there.
    subprocess.run(
        [sys.executable, "-m", "catdog", "--version"], cwd=tmp_path, check=True, capture_output=True
    )


def test_what_lies_beside_the_code_stays_here(tmp_path, monkeypatch):
    """Secrets, keys, repositories and data that somebody keeps within the package are not sent.

    And all that belongs to it is.
    """
    copy = tmp_path / "installed" / "catdog"
    shutil.copytree(package.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    strangers = [".env", ".aws/credentials", ".git/config", "id_rsa", "keys/server.pem", "a.key"]
    strangers += ["data/cat.jpg", "part-0.parquet", "notes.txt", "credentials.json", "secret"]
    strangers += ["weights/token.txt", "weights/.netrc", "training/.env.local"]
    for name in strangers:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(SECRET)
    (copy / "linked").symlink_to(tmp_path)
    monkeypatch.setattr(package, "PACKAGE", copy)
    package.stage(tmp_path / "sent")
    sent = [path for path in (tmp_path / "sent").rglob("*") if path.is_file()]
    assert not any(SECRET in path.read_text(errors="replace") for path in sent)
    ours = {path.relative_to(copy.parent) for path in copy.rglob("*") if path.is_file()}
    ours -= {Path("catdog") / name for name in strangers}
    assert {path.relative_to(tmp_path / "sent") for path in sent} == ours


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "train, classify"),
        (["fly"], "train, classify"),
        (["demo"], "train, classify"),
        (["submit", *CLASSIFY], "train, classify"),
        ([*CLASSIFY, "--bogus"], "--bogus"),
        ([*CLASSIFY, "--batch-size", "0"], "--batch-size"),
        (
            ["classify", "photos/", "--output", "s3://bkt/o", "--model", "s3://bkt/m"],
            "IMAGES photos/",
        ),
        (["classify", "s3://bkt/i", "--output", "out", "--model", "s3://bkt/m"], "--output out"),
        (["classify", "s3://bkt/i", "--output", "s3://bkt/o", "--model", "/m"], "--model /m"),
        (["train", "file://x", "--output", "s3://bkt/o"], "file:///"),
        (
            "train s3://bkt/i --output s3://bkt/o --architecture ResNet50 --weights x.keras".split(),
            "--weights x.keras",
        ),
        (["train", f"s3://key:{SECRET}@bkt/i", "--output", "s3://bkt/o"], "credentials"),
        (["train", f"https://me:{SECRET}@h/i", "--output", "s3://bkt/o"], "credentials"),
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


@pytest.mark.slow
@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("127.0.0.2", 1)])
def test_a_token_that_the_network_sees_is_warned_of(host, warned, capsys):
    """Plain http to anywhere but this machine's usual address, even where nothing answers."""
    (port,) = free_ports(1)
    assert main(["submit", *CLASSIFY, "--address", f"http://{host}:{port}"]) == 2
    assert capsys.readouterr().err.count("shows the token to the network") == warned


@pytest.mark.slow
def test_an_account_without_a_home_can_submit():
    """It gets as far as everybody: here, to a port where nothing answers."""
    nobody = ["env", "-u", "HOME", "unshare", "--user", "--map-user=12345"]
    if subprocess.run([*nobody, "true"], check=False).returncode:
        pytest.skip("no account without a name can be made here")
    (port,) = free_ports(1)
    command = [*nobody, sys.executable, "-m", "catdog", "submit", *CLASSIFY]
    command += ["--address", f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"--address http://127.0.0.1:{port}" in done.stderr


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


class DroppingServer:
    """Tells a job's log piece by piece over one connection, which then drops, once."""

    def __init__(self):
        self.connections = 0

    def get_job_info(self, _identifier):
        """The job has ended when its whole log was told."""
        done = self.connections == 2
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: done))

    async def tail_job_logs(self, _identifier):
        """The log from its beginning, as the real server tells it."""
        self.connections += 1
        for number in range(10):
            await asyncio.sleep(0.1)
            yield f"line {number}\n"
        if self.connections == 1:
            raise ConnectionError("dropped")
        yield "the end\n"


@pytest.mark.slow
def test_patience_counts_from_the_last_line(monkeypatch):
    """A connection that drops after it has served for longer than the patience is made again."""
    monkeypatch.setattr(submission._Follower, "PATIENCE_S", 0.5)
    told = []
    follower = submission._Follower(DroppingServer(), "job", told.append, known=True)
    assert follower.run() is not None
    assert "".join(told) == "".join(f"line {number}\n" for number in range(10)) + "the end\n"


SUBMIT = [sys.executable, "-m", "catdog", "submit"]
RAY = str(Path(sys.executable).with_name("ray"))


def run(*arguments, **environment):
    return subprocess.run(
        [*SUBMIT, *arguments],
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
        with contextlib.suppress(OSError), source:
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


@contextlib.contextmanager
def local_cluster(**variables):
    """`cluster/local.sh` with one worker: the head's port, the job server's, and the token's file."""
    if not shutil.which("setsid"):
        pytest.skip("cluster/local.sh needs setsid")
    port, dashboard = free_ports(2)
    command = [str(ROOT / "cluster" / "local.sh"), "--workers", "1", "--store-mb", "100"]
    command += ["--port", str(port), "--dashboard-port", str(dashboard)]
    process = subprocess.Popen(
        command,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | {"CATDOG_BIN": str(Path(sys.executable).parent)}
        | variables,
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
        yield port, dashboard, token
    finally:
        process.terminate()
        process.communicate(timeout=60)
    # Nothing of it is left: neither its folder nor a process that was started in it.
    assert not token.parent.exists()
    deadline = time.monotonic() + 20
    while left := processes_of(token.parent):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster():
    """A running local cluster for the whole module."""
    with local_cluster() as found:
        yield found


def processes_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.slow
def test_job_from_here_to_its_exit_code(cluster, tiny_model, drawings, tmp_path):
    """Jobs run on the cluster they are sent to; refused, failed and done each have their code.

    One test, because each job needs what the one before has left.
    """
    _, dashboard, token = cluster
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
    # Nor does the dashboard listen beyond this machine.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        outward.connect(("192.0.2.1", 9))  # sends nothing, but chooses an address
        own = outward.getsockname()[0]
    if not own.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, dashboard), timeout=5)

    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    for picture in sorted((drawings / "cat").iterdir())[:8]:
        shutil.copy(picture, images / "cat")
    (images / "cat" / "broken.jpg").write_bytes(b"not a picture")
    results = tmp_path / "results"
    command = ["classify", images.as_uri(), "--output", results.as_uri()]
    command += ["--model", Path(tiny_model).as_uri()]

    # One image too many is rejected: exit code 1. The line is cut again and again meanwhile, and
    # each line of the log still arrives once.
    wire = Wire(dashboard)
    failing = [*command, "--max-rejected", "0"]
    job = subprocess.Popen(
        [*SUBMIT, *failing, "--send-aws-credentials", "--address", wire.address],
        env=os.environ | token_environment | {"AWS_SECRET_ACCESS_KEY": SECRET},
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

    identifier = re.search(r"as job (\S+)", errors)[1]

    # What the cluster shows of the job: credentials are in the variables that were asked for, and
    # nowhere else.
    bearer = {"Authorization": f"Bearer {token.read_text()}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{direct}/api/jobs/{identifier}", headers=bearer)
    ) as answer:
        record = json.load(answer)
    assert record["entrypoint"].startswith("python -m catdog classify file:///")
    assert record["runtime_env"].pop("env_vars") == {"AWS_SECRET_ACCESS_KEY": SECRET}
    assert SECRET not in json.dumps(record) + log + errors

    # The same log and the same code again, from a job that has ended.
    again = run("--attach", identifier, "--address", direct, **token_environment)
    assert (again.returncode, again.stdout) == (1, log)

    # The same results asked for again: nothing left to do, exit code 0, the summary on its own.
    finished = [*command, "--max-rejected", "0.5"]
    done = run(*finished, "--json", "--address", direct, **token_environment)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["already_complete"]
    assert (summary["classified"], summary["rejected"]) == (8, 1)

    # The programs of jobs/ do the same under Ray's own command.
    for verb, arguments in (("classify", [*finished[1:], "--json"]), ("train", ["--help"])):
        entrypoint = ["python", f"jobs/{verb}.py", *arguments]
        sent = subprocess.run(
            [RAY, "job", "submit", "--address", direct, "--working-dir", ".", "--", *entrypoint],
            cwd=ROOT,
            env=os.environ | token_environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert sent.returncode == 0, sent.stdout + sent.stderr
        assert ('"already_complete": true' if verb == "classify" else "--output") in sent.stdout

    # What only the cluster can find out is the user's mistake all the same: exit code 2.
    wrong = run(*command[:-1], "file:///no/such/model", "--address", direct, **token_environment)
    assert wrong.returncode == 2
    assert "/no/such/model" in wrong.stdout


class Follower:
    """A `catdog submit` that somebody watches."""

    def __init__(self, *arguments, program=SUBMIT, **environment):
        self._process = subprocess.Popen(
            [*program, *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_log(self):
        """Until the first line of the job's log is there."""
        while line := self._process.stdout.readline():
            if "Running entrypoint" in line:
                return
        pytest.fail(self._process.stderr.read())

    def ctrl_c(self):
        """What a terminal sends."""
        self._process.send_signal(signal.SIGINT)

    def said(self, text):
        """What it says on standard error, until this is among it."""
        said = ""
        while text not in said:
            line = self._process.stderr.readline()
            assert line, f"ended without {text!r}: {said}"
            said += line
        return said

    def end(self, timeout_s=60):
        """Its exit code."""
        self._process.stdout.close()
        code = self._process.wait(timeout_s)
        self._process.stderr.close()
        return code


@pytest.mark.slow
def test_doctor_asks_the_job_server(cluster):
    """Its line has the server's version and jobs; without the token it says what is missing."""
    _, dashboard, token = cluster
    address = f"http://127.0.0.1:{dashboard}"
    code = "import sys; from catdog import submission; print(submission.look(sys.argv[1]))"
    program = [sys.executable, "-c", code, address]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    access = environment | {"RAY_AUTH_TOKEN_PATH": str(token)}
    done = subprocess.run(program, env=access, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"{address} answers: Ray [\d.]+, \d+ jobs? at work\n", done.stdout)
    doctor = [sys.executable, "-m", "catdog", "doctor", "--json", "--address", address]
    wrong = environment | {"RAY_AUTH_TOKEN": "wrong"}
    done = subprocess.run(doctor, env=wrong, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["name"], last["ok"]) == ("job server", False)
    assert "asks for its token" in last["said"]


@pytest.mark.slow
def test_to_leave_a_job_and_come_back(cluster, drawings, tmp_path):
    """Ctrl-C leaves the job alone, a second one stops it; a cluster that is gone is not for ever."""
    _, dashboard, token = cluster
    direct = f"http://127.0.0.1:{dashboard}"
    access = {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token"}
    long = ["train", drawings.as_uri(), "--output", (tmp_path / "run").as_uri(), "--epochs", "9999"]

    # The first Ctrl-C detaches, and says how to come back.
    first = Follower(*long, "--address", direct, **access)
    first.wait_for_log()
    first.ctrl_c()
    said = first.said("Ctrl-C again within")
    assert first.end() == 130
    identifier = re.search(r"--attach (\S+)", said)[1]

    # The job is still there. Where the cluster stays away, following it ends in words.
    wire = Wire(dashboard)
    script = "from catdog import cli; from catdog.submission import job; "
    script += "job._Follower.PATIENCE_S = 5.0; "
    script += "import sys; sys.exit(cli.main(['submit', *sys.argv[1:]]))"
    impatient = [sys.executable, "-c", script]
    second = Follower(
        "--attach", identifier, "--address", wire.address, program=impatient, **access
    )
    second.wait_for_log()
    wire.close()
    said = second.said("come back with: catdog submit --attach")
    assert "connection lost" in said
    assert "no contact with" in said
    assert second.end() == 1

    # Nor has that ended it. The second Ctrl-C does.
    third = Follower("--attach", identifier, "--address", direct, **access)
    third.wait_for_log()
    third.ctrl_c()
    third.said("Ctrl-C again within")
    third.ctrl_c()
    third.said("submit it again to continue")
    assert third.end() == 130
    stopped = run("--attach", identifier, "--address", direct, **access)
    assert stopped.returncode == 1
    assert "was stopped" in stopped.stderr
    unknown = run("--attach", "no-such-job", "--address", direct, **access)
    assert unknown.returncode == 2
    assert "--attach no-such-job: the cluster has no such job" in unknown.stderr


def certificates(folder):
    """The variables of docs/security.md for TLS, after its own commands have made what they name."""
    text = (ROOT / "docs" / "security.md").read_text()
    (block,) = re.findall(r"^```\n(mkdir tls.*?)^```$", text, re.MULTILINE | re.DOTALL)
    *commands, last = block.strip().splitlines()
    assert last == "../cluster/local.sh"
    script = "\n".join(["set -eu", *commands, "env"])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return dict(
        line.split("=", 1)
        for line in done.stdout.splitlines()
        if line.startswith(("RAY_USE_TLS=", "RAY_TLS_"))
    )


@pytest.mark.slow
@pytest.mark.long
def test_nodes_speak_tls_where_they_are_told_to(drawings, tmp_path):
    """With the variables of docs/security.md jobs run, and without a certificate nobody gets in."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine")
    variables = certificates(tmp_path)
    assert len(variables) == 4
    key = Path(variables["RAY_TLS_SERVER_KEY"])
    assert key.stat().st_mode & 0o077 == 0

    def answer(port, *, with_certificate):
        """The first bytes of what the head says to somebody who trusts the cluster's authority."""
        context = ssl.create_default_context(cafile=variables["RAY_TLS_CA_CERT"])
        context.set_alpn_protocols(["h2"])
        if with_certificate:
            context.load_cert_chain(variables["RAY_TLS_SERVER_CERT"], key)
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            return secure.recv(100)
        return b""

    with local_cluster(**variables) as (port, dashboard, token):
        assert answer(port, with_certificate=True)
        assert not answer(port, with_certificate=False)
        results = tmp_path / "results"
        done = run(
            "classify",
            (drawings / "cat").as_uri(),
            "--output",
            results.as_uri(),
            "--json",
            "--address",
            f"http://127.0.0.1:{dashboard}",
            **variables,
            RAY_AUTH_TOKEN_PATH=str(token),
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["classified"] == 80
