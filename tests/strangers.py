"""A Ray cluster as somebody else runs it: plain `ray start`, none of this project's settings."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RAY = str(Path(sys.executable).with_name("ray"))
_START_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """A running one.

    Attributes:
        address: where drivers connect.
        job_server: its URL.
        environment: of a shell that has the cluster's token, and no other variable of Ray's.
    """

    address: str
    job_server: str
    environment: dict[str, str]


def clean_environment() -> dict[str, str]:
    """This process's environment without any variable of Ray's; `python` is this interpreter."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    clean["PYTHONPATH"] = str(Path(__file__).parents[1])
    return clean


@contextlib.contextmanager
def started(
    cpus: Sequence[int] = (2,),
    *,
    ray: str = _RAY,
    prefix: Sequence[str] = (),
    labels: Sequence[str] = (),
    **variables: str,
) -> Iterator[Cluster]:
    """Nodes of so many CPUs each on this machine, the first one the head.

    Args:
        cpus: of each node.
        ray: the executable.
        prefix: a command that runs each node's `ray start`.
        labels: of each node, `KEY=VALUE`; by default none.
        variables: of every node's environment.
    """
    port, dashboard, client = free_ports(3)
    processes: list[subprocess.Popen[bytes]] = []
    # Short, since paths of Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="cd-", ignore_cleanup_errors=True) as folder:
        # Who may come in is not how the cluster talks: nobody else of this machine gets in.
        token = Path(folder, "token")
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        environment = clean_environment() | access
        common = [ray, "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        common += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        common += ["--object-store-memory=150000000"]
        head = ["--head", f"--port={port}", f"--temp-dir={folder}/r", "--dashboard-host=127.0.0.1"]
        head += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        log = Path(folder, "log")
        try:
            for number, count in enumerate(cpus):
                own = head if number == 0 else [f"--address=127.0.0.1:{port}"]
                own = own + [f"--labels={label}" for label in labels[number : number + 1]]
                with log.open("ab") as out:
                    processes.append(
                        subprocess.Popen(
                            [*prefix, *common, *own, f"--num-cpus={count}"],
                            env=environment | variables,
                            stdin=subprocess.DEVNULL,
                            stdout=out,
                            stderr=out,
                            start_new_session=True,
                        )
                    )
                _wait_until_started(processes, log)
            yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment)
        finally:
            for process in reversed(processes):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its session is its own
                process.wait()


def _wait_until_started(processes: Sequence[subprocess.Popen[bytes]], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while log.read_text().count("Ray runtime started.") < len(processes):
        assert all(process.poll() is None for process in processes), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
