"""A Ray cluster of several hosts on one machine: each in a network namespace, with a link of its own.

A host's link can be cut without a word, healed and slowed; its processes can be ended as a power cut
would. Needs root, `ip` and `tc` (Debian: iproute2).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.runtime.ray_quirks import FAULT_DETECTION_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BIN = Path(sys.executable).parent
_HEAD_PORT = 6379
_DASHBOARD_PORT = 8265


def missing() -> str | None:
    """Why no namespaces can be made here, or None."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "the commands `ip` and `tc` are missing (Debian: apt-get install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    return _no_namespaces()


@functools.cache
def _no_namespaces() -> str | None:
    name = f"catdog-{os.getpid()}-try"
    tries = (
        ["ip", "netns", "add", name],
        ["ip", "link", "add", f"cd{os.getpid()}", "type", "bridge"],
    )
    undo = (["ip", "netns", "del", name], ["ip", "link", "del", f"cd{os.getpid()}"])
    try:
        for command in tries:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"`{' '.join(command[:3])}` is not allowed here ({done.stderr.strip()})"
    finally:
        for command in undo:
            subprocess.run(command, capture_output=True, check=False)
    return None


def run(*command: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float) -> Any:
    """The first true value of `condition`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)
    return value


class Network:
    """A bridge, which this process is on as well, and hosts on it."""

    def __init__(self) -> None:
        # Names of interfaces have 15 characters at most.
        self.name = f"cd{os.getpid()}"
        taken = run("ip", "-o", "-4", "addr")
        self._net = next(net for n in range(1, 255) if (net := f"10.213.{n}.") not in taken)
        self.address = f"{self._net}1"
        self._hosts: list[Host] = []
        run("ip", "link", "add", self.name, "type", "bridge")
        run("ip", "addr", "add", f"{self.address}/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")

    def host(self, name: str) -> Host:
        """A new host with a link to the bridge."""
        host = Host(self, name, f"{self._net}{len(self._hosts) + 2}", len(self._hosts))
        self._hosts.append(host)
        return host

    def close(self) -> None:
        """End everything that runs on the hosts, and the hosts."""
        for host in self._hosts:
            host.close()
        run("ip", "link", "del", self.name)


class Host:
    """A network namespace with one link to the bridge.

    Attributes:
        address: its IPv4 address.
    """

    def __init__(self, network: Network, name: str, address: str, number: int) -> None:
        self.name, self.address = name, address
        self._network = network
        self._namespace = f"{network.name}-{name}"
        self._link = f"{network.name}v{number}"  # the bridge's end of it
        run("ip", "netns", "add", self._namespace)
        run(
            "ip",
            "link",
            "add",
            self._link,
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            self._namespace,
        )
        run("ip", "link", "set", self._link, "master", network.name, "up")
        inside = ("ip", "-n", self._namespace)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        # Leads nowhere, but programs look for the address of their default route.
        run(*inside, "route", "add", "default", "via", network.address)

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` on this host."""
        return ["ip", "netns", "exec", self._namespace, *command]

    def processes(self) -> list[int]:
        """The ids of all processes of this host."""
        return [int(pid) for pid in run("ip", "netns", "pids", self._namespace).split()]

    def kill(self) -> None:
        """End every process at once, as a power cut would."""

        def killed() -> bool:
            # Stopped first: a parent must not live long enough to report its child.
            pids = self.processes()
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            return not pids

        wait_until(f"the processes of {self.name} have ended", killed, 30)

    def cut(self) -> None:
        """No packet comes or goes any more, and nobody is told: the link stays up."""
        run("ip", "link", "set", self._link, "nomaster")

    def heal(self) -> None:
        """Packets come and go again."""
        run("ip", "link", "set", self._link, "master", self._network.name)

    def slow(self, rate: str) -> None:
        """Both directions at `rate` (as `tc` writes it), late by up to 0.4 s, losing the rest."""
        shape = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms"]
        run("tc", "qdisc", "replace", "dev", self._link, *shape)
        run("tc", "-n", self._namespace, "qdisc", "replace", "dev", "eth0", *shape)

    def fast(self) -> None:
        """Without a limit again."""
        run("tc", "qdisc", "del", "dev", self._link, "root")
        run("tc", "-n", self._namespace, "qdisc", "del", "dev", "eth0", "root")

    def close(self) -> None:
        """End its processes and remove it."""
        self.kill()
        run("ip", "netns", "del", self._namespace)


class RayNode:
    """A host with one `ray start`."""

    def __init__(self, cluster: RayCluster, host: Host, cpus: int) -> None:
        self.host, self.cpus = host, cpus
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0

    @property
    def running(self) -> bool:
        """Whether its `ray start` has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; `RayCluster.wait_for` waits until the head knows it."""
        self._started += 1
        # Short, since paths of Unix sockets lie in it; its own, as another host's would be.
        temporary = self._cluster.folder / f"{self.host.name}{self._started}"
        address = self.host.address
        command = [str(_BIN / "ray"), "start", "--block", "--disable-usage-stats"]
        command += [f"--node-ip-address={address}", f"--num-cpus={self.cpus}"]
        command += [f"--temp-dir={temporary}", f"--object-store-memory={RayCluster.STORE_BYTES}"]
        command += ["--dashboard-agent-listen-port=0"]
        if self is self._cluster.head:
            command += ["--head", f"--port={_HEAD_PORT}", *self._cluster.head_arguments]
            command += [f"--dashboard-host={address}", f"--dashboard-port={_DASHBOARD_PORT}"]
        else:
            command += [f"--address={self._cluster.gcs_address}"]
        with (self._cluster.folder / f"{self.host.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.host.command(*command),
                env=self._cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End all of it at once."""
        self.host.kill()
        if self._process is not None:
            self._process.wait()


class RayCluster:
    """A head without CPUs, where drivers run, and workers of some CPUs each.

    With `plain` it has Ray's own settings, as a cluster that somebody else runs.

    Attributes:
        folder: of logs and sessions.
        environment: of every node; jobs get it from the head.
        address: URL of the job server.
        gcs_address: where nodes and drivers connect.
    """

    STORE_BYTES = 100_000_000

    def __init__(
        self,
        network: Network,
        folder: Path,
        workers: Sequence[int],
        variables: dict[str, str],
        *,
        name: str = "",
        plain: bool = False,
    ) -> None:
        self.folder = folder
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        settings = {} if plain else FAULT_DETECTION_SETTINGS
        self.environment = clean | settings | self.access | variables
        self.environment["PATH"] = f"{_BIN}:{clean['PATH']}"  # jobs say `python`
        self.head = RayNode(self, network.host(f"{name}head"), 0)
        self.workers = [
            RayNode(self, network.host(f"{name}w{number}"), cpus)
            for number, cpus in enumerate(workers)
        ]
        self.address = f"http://{self.head.host.address}:{_DASHBOARD_PORT}"
        self.gcs_address = f"{self.head.host.address}:{_HEAD_PORT}"
        self.head_arguments: list[str] = []

    def add_autoscaler(self, *, cpus: int, largest: int) -> None:
        """Before the start: have Ray's own autoscaler bring nodes, as processes on the head's host.

        `ray.cluster_utils.AutoscalingCluster` does the same, but ends every Ray of the machine
        first, and wants a file that Ray's wheel has not.
        """
        from ray.autoscaler._private.fake_multi_node.node_provider import (
            FAKE_HEAD_NODE_ID,
            FakeMultiNodeProvider,
        )

        head, pool = "ray.head.default", {"CPU": cpus, "object_store_memory": self.STORE_BYTES}
        config = {
            "cluster_name": "fake",
            "max_workers": largest,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.5,
            "provider": {
                # As type `fake_multinode` it would want that file as well.
                "type": "external",
                "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "gcs_address": self.gcs_address,
            },
            "auth": {},
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "initialization_commands": [],
            "file_mounts": {},
            "cluster_synced_files": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
            "head_node_type": head,
            "available_node_types": {
                head: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "cpu": {
                    "resources": pool,
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": largest,
                },
            },
        }
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(config))
        self.head_arguments = [f"--autoscaling-config={path}"]
        self.environment |= {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": head,  # as KubeRay and the launcher set it
        }

    def start(self) -> None:
        """Start all nodes and wait for them."""
        self.head.start()
        wait_until("the head's job server answers", self._answers, 180)
        self.repair()

    def kill(self) -> None:
        """End all nodes at once."""
        for node in (self.head, *self.workers):
            node.kill()

    def repair(self) -> None:
        """Heal every link, start every worker that has ended, and wait for all of them."""
        for node in self.workers:
            node.host.heal()
        known = {node["ip"]: node for node in self.nodes() if node["state"] == "ALIVE"}
        for node in self.workers:
            if not node.running or node.host.address not in known:
                node.kill()
                node.start()
        for node in self.workers:

            def up(node: RayNode = node) -> bool:
                if not node.running:  # a busy machine takes longer than Ray grants a start
                    node.kill()
                    node.start()
                return self._is_alive(node)

            wait_until(f"{node.host.name} is alive for the head", up, 300)

    def _is_alive(self, node: RayNode) -> bool:
        address = node.host.address
        return any(each["ip"] == address and each["state"] == "ALIVE" for each in self.nodes())

    def wait_for(self, node: RayNode, *, alive: bool = True, timeout_s: float = 180) -> None:
        """Wait until the head counts a node as alive, or as not."""
        wait_until(
            f"{node.host.name} is {'alive' if alive else 'dead'} for the head",
            lambda: self._is_alive(node) == alive,
            timeout_s,
        )

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that the head knows, dead ones as well: `id`, `ip`, `state`, `cpus`."""
        rows = self.ask("/api/v0/nodes?limit=10000&detail=1")["data"]["result"]["result"]
        return [
            {
                "id": row["node_id"],
                "ip": row["node_ip"],
                "state": row["state"],
                "cpus": row["resources_total"].get("CPU", 0),
            }
            for row in rows
        ]

    def ask(self, path: str) -> Any:
        """What the dashboard answers."""
        token = Path(self.access["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def _answers(self) -> bool:
        assert self.head.running, (self.folder / f"{self.head.host.name}.log").read_text()
        try:
            return bool(self.nodes())
        except (OSError, ValueError, KeyError):
            return False
