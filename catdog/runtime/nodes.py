"""The nodes of a cluster: their resources, waiting for them, and giving up when they are gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from catdog.ahead import NothingYet, read_ahead
from catdog.errors import CatdogError, UserInputError, counted
from catdog.runtime.tensorflow_quirks import cpu_has_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# A cloud's machine, its start-up and the container's image, where an autoscaler brings nodes.
_NODES_COME_WITHIN_S = 900.0
# A worker that is started again by hand or by Kubernetes, where none does.
_NODES_RETURN_WITHIN_S = 60.0
# What has just ended holds its CPUs for a moment longer.
_SETTLED_AFTER_S = 5.0
# A task that needs no CPU starts a process and runs, also on a busy node.
_ANSWER_WITHIN_S = 60.0
# Ray aborts a process whose head has been away for 60 s, without a word to anybody: say it sooner.
_HEAD_RETURNS_WITHIN_S = 45.0
_NAMED_NODES = 3  # in a line about many

GO_ON = "run the same command again: it continues from what is written"


def head_answers() -> bool:
    """Whether something listens at the head's address. Ray's own calls would wait for the head."""
    import ray
    from ray.util.client import ray as client

    if client.is_connected():  # through the head's client server, which notices by itself
        return True
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        knock(host, port, timeout_s=2)
    except OSError:
        return False
    return True


def knock(host: str, port: str, *, timeout_s: float) -> None:
    """Connect once; raises the OSError of a failure. IPv6 addresses are in brackets."""
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


def heads() -> list[dict[str, Any]]:
    """The cluster's head and earlier heads, as `ray.nodes` returns them."""
    import ray

    return [node for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]


def alive() -> set[str]:
    """Ray's ids of the nodes that the head considers alive."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def is_shared(address: str | None) -> bool:
    """Whether a command with this `--address` runs on a cluster that other jobs may use, too."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def check_placing(address: str | None, label: str | None, *, install: bool) -> None:
    """Refuse flags about nodes that are wrong, or that are given without a cluster.

    Raises:
        UserInputError: names the flag.
    """
    if install and not is_shared(address):
        raise UserInputError("--install: the nodes of a cluster install; name it with --address")
    selector(label)


def selector(label: str | None, flag: str = "--node-label") -> dict[str, str]:
    """A label `KEY=VALUE` as Ray's label selector; empty for none.

    Raises:
        UserInputError: the label has another form; names the flag.
    """
    if label is None:
        return {}
    key, _, value = label.partition("=")
    if not re.fullmatch(r"[\w./-]+", key) or not re.fullmatch(r"\w([\w.-]*\w)?", value):
        raise UserInputError(f"{flag} {label}: a node's label is KEY=VALUE, such as pool=cpu")
    return {key: value}


def on_label(label: str | None) -> dict[str, Any]:
    """Options for a task or actor that only runs on nodes with this label; empty for any node."""
    return {"label_selector": selector(label)} if label else {}


def labelled(label: str | None) -> list[dict[str, Any]]:
    """The live nodes with this label, or all, as `ray.nodes` returns them."""
    import ray

    wanted = selector(label).items()
    return [node for node in ray.nodes() if node["Alive"] and wanted <= node["Labels"].items()]


def cluster_resources(label: str | None = None) -> tuple[int, int]:
    """Logical CPUs and GPUs of the whole cluster, or of its nodes with a label."""
    has = [node["Resources"] for node in labelled(label)]
    return int(sum(each.get("CPU", 0) for each in has)), int(
        sum(each.get("GPU", 0) for each in has)
    )


def room(*, cpus: int = 0, gpus: int = 0, label: str | None = None) -> int:
    """The number of workers with these logical CPUs and GPUs that fit the live nodes, busy or not."""
    return sum(_holds(node["Resources"], cpus, gpus) for node in labelled(label))


def _holds(has: dict[str, float], cpus: int, gpus: int) -> int:
    parts = [(has.get("CPU", 0), cpus), (has.get("GPU", 0), gpus)]
    return int(min(there // each for there, each in parts if each))


def without_bfloat16(label: str | None = None) -> list[str]:
    """Addresses of nodes with CPUs for workers whose hardware lacks bfloat16."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    works = [node for node in labelled(label) if node["Resources"].get("CPU")]
    here = ray.get_runtime_context().get_node_id()
    if [node["NodeID"] for node in works] == [here]:
        return [] if cpu_has_bfloat16() else [works[0]["NodeManagerAddress"]]
    asked = {
        ray.remote(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )(cpu_has_bfloat16).remote(): node["NodeManagerAddress"]
        for node in works
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_WITHIN_S)
    unable = []
    for reference in answered:
        try:
            if not ray.get(reference):
                unable.append(asked[reference])
        except ray.exceptions.RayError:
            continue  # the node has just gone: whoever watches the job sees it
    return unable


def autoscales(*, patience_s: float = 0.0) -> bool:
    """Whether an autoscaler starts nodes for this cluster when work waits for them.

    Ray offers no call for this. Its launcher and KubeRay name a group for every node, including the
    head, and an autoscaler's monitor, which KubeRay starts a moment after the head, stores its address.
    A head that was started by hand has a monitor too, which starts nothing.

    Args:
        patience_s: seconds to wait for the monitor, if the head has a group.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    if not any(node["Labels"].get("ray.io/node-group") for node in heads()):
        return False
    deadline = time.monotonic() + patience_s
    while not _internal_kv_get("AutoscalerMetricsAddress"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def wait_for_room(
    workers: int,
    *,
    cpus: int = 0,
    gpus: int = 0,
    label: str | None = None,
    on_wait: Callable[[str], None],
    timeout_s: float = _NODES_COME_WITHIN_S,
) -> None:
    """Have the autoscaler make room for workers, and wait for it; without autoscaler, do not wait.

    Args:
        workers: number of workers that need room at the same time.
        cpus: logical CPUs of a worker.
        gpus: GPUs of a worker.
        label: label `KEY=VALUE` of the nodes that count; by default all do.
        on_wait: is called with the state whenever it changes.
        timeout_s: the longest wait.

    Raises:
        UserInputError: the cluster is too small, and there is no autoscaler.
        CatdogError: the autoscaler has not made it large enough in time.
    """
    found = room(cpus=cpus, gpus=gpus, label=label)
    if found >= workers:
        return
    shape = " and ".join(
        counted(count, name) for count, name in ((cpus, "CPU"), (gpus, "GPU")) if count
    )
    where = f" on nodes with the label {label}" if label else ""
    missing = f"the cluster has room for {{found}} of {counted(workers, 'worker')} of {shape} each"
    missing += where
    if not autoscales(patience_s=10):
        advice = "start nodes, or ask for fewer --workers"
        if gpus and not cluster_resources(label)[1]:
            advice = "the cluster has no GPU: start nodes with GPUs, or do not ask for GPUs"
        raise UserInputError(missing.format(found=found) + f", and no autoscaler; {advice}")
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": cpus} if cpus else {}
    bundle |= {"GPU": gpus} if gpus else {}
    deadline, asked, told = time.monotonic() + timeout_s, 0.0, -1
    try:
        while (found := room(cpus=cpus, gpus=gpus, label=label)) < workers:
            now = time.monotonic()
            if now > deadline:
                raise CatdogError(
                    missing.format(found=found)
                    + f" after {timeout_s:.0f} s of waiting for its autoscaler; look at `ray status` "
                    "and at the largest size of its pools, or ask for fewer --workers"
                )
            if found != told:
                told = found
                on_wait(f"waiting for nodes: room for {found} of {counted(workers, 'worker')}")
            if now - asked > 5:  # other jobs of the cluster overwrite the wish
                asked = now
                request_resources(bundles=[bundle] * workers, **_on_labels(label, workers))
            time.sleep(0.5)
    finally:
        # The wish outlives the job; from here on the workers themselves keep the nodes.
        request_resources(bundles=[])


def _on_labels(label: str | None, bundles: int) -> dict[str, Any]:
    return {"bundle_label_selectors": [selector(label)] * bundles} if label else {}


def wait_until_free(
    workers: int,
    *,
    cpus: int = 0,
    gpus: int = 0,
    label: str | None = None,
    on_wait: Callable[[str], None],
    timeout_s: float,
) -> None:
    """Wait until other jobs leave enough of the cluster for the workers.

    If the cluster has an autoscaler, the job's own waiting tasks make it start nodes.

    Args:
        workers: number of workers that must be able to start at once.
        cpus: logical CPUs of a worker.
        gpus: GPUs of a worker.
        label: label `KEY=VALUE` of the nodes that count; by default all do.
        on_wait: is called with the free resources whenever they change.
        timeout_s: the longest wait.

    Raises:
        CatdogError: other jobs used too much of the cluster for too long.
    """
    begun, told = time.monotonic(), ""
    while True:
        free, whole = _free(label), dict(zip(("CPU", "GPU"), cluster_resources(label), strict=True))
        wants = [(name, each) for name, each in (("CPU", cpus), ("GPU", gpus)) if each]
        if all(int(free.get(name, 0)) // each >= workers for name, each in wants) or autoscales():
            return
        said = " and ".join(
            f"{int(free.get(name, 0))} of {int(whole.get(name, 0))} {name}s are free, "
            f"{workers * each} wanted"
            for name, each in wants
        )
        waited = time.monotonic() - begun
        if waited > timeout_s:
            raise CatdogError(
                f"{said}: other jobs use the rest of the cluster; waited for {timeout_s:.0f} s "
                "(--wait-s)"
            )
        if said != told and waited > _SETTLED_AFTER_S:
            told = said
            on_wait(f"waiting for other jobs of the cluster: {said}")
        time.sleep(0.5)


def _free(label: str | None) -> dict[str, float]:
    """CPUs and GPUs that no job has, of all nodes or of those with a label."""
    import ray
    from ray.util.client import ray as client

    if label is None or client.is_connected():  # the client's server tells the sums alone
        return dict(ray.available_resources())
    from ray._private.state import available_resources_per_node

    by_node = available_resources_per_node()
    has = [by_node.get(node["NodeID"], {}) for node in labelled(label)]
    return {name: sum(each.get(name, 0) for each in has) for name in ("CPU", "GPU")}


class NodeWatch:
    """Gives up when a job has had no head, or no nodes to run on, for too long.

    Ray itself waits for nodes for ever, and ends the process if the head is gone.

    Args:
        workers: the least number of workers with which the job can continue.
        cpus: logical CPUs of a worker.
        gpus: GPUs of a worker.
        label: label `KEY=VALUE` of the nodes that count; by default all do.
        on_lost: is called with a sentence when nodes have gone.
    """

    def __init__(
        self,
        workers: int,
        *,
        cpus: int = 0,
        gpus: int = 0,
        label: str | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._workers, self._cpus, self._gpus, self._label = workers, cpus, gpus, label
        self._on_lost = on_lost
        self._addresses: dict[str, str] = {}  # of the nodes, by their ids
        self._patience_s = _NODES_COME_WITHIN_S if autoscales() else _NODES_RETURN_WITHIN_S
        self._last_look = self._last_seen = self._head_seen = time.monotonic()

    def check(self) -> None:
        """Call it often.

        Raises:
            CatdogError: the nodes or the head have been away for too long.
        """
        now = time.monotonic()
        if now - self._last_look < 2:
            return
        self._last_look = now
        if not head_answers():
            if now - self._head_seen > _HEAD_RETURNS_WITHIN_S:
                raise CatdogError(
                    f"the head of the cluster has been away for {_HEAD_RETURNS_WITHIN_S:.0f} s; "
                    f"start a cluster and {GO_ON}"
                )
            return
        self._head_seen = now
        there = labelled(self._label)
        self._tell_lost({node["NodeID"]: node["NodeManagerAddress"] for node in there})
        found = sum(_holds(node["Resources"], self._cpus, self._gpus) for node in there)
        if found >= self._workers:
            self._last_seen = now
        elif now - self._last_seen > self._patience_s:
            kind = "GPUs" if self._gpus else "CPUs"
            lack = (
                f"no node with {kind} has been left"
                if found == 0
                else f"the nodes have had room for {found} of {counted(self._workers, 'worker')} only"
            )
            raise CatdogError(f"{lack} for {self._patience_s:.0f} s; start nodes and {GO_ON}")

    def _tell_lost(self, there: dict[str, str]) -> None:
        lost = sorted(self._addresses[node] for node in self._addresses.keys() - there.keys())
        self._addresses = there
        if lost and self._on_lost is not None:
            named = ", ".join(lost[:_NAMED_NODES])
            more = f" and {len(lost) - _NAMED_NODES:,} more" if len(lost) > _NAMED_NODES else ""
            left = counted(len(there), "node")
            self._on_lost(f"{counted(len(lost), 'node')} lost ({named}{more}); {left} left")


def watched(batches: Iterator[T], check: Callable[[], None]) -> Iterator[T]:
    """Yield what a Ray Data job yields; call `check` often, and end when it raises.

    Raises:
        CatdogError: raised by `check`; or whatever the job raises.
    """
    # A job that waits for nodes ends when Ray is shut down, and no sooner: its thread likewise.
    with read_ahead(batches, 64, name="catdog-ray-data", every_s=1.0, patience_s=0.0) as ahead:
        for batch in ahead:
            check()
            if not isinstance(batch, NothingYet):
                yield batch


class ActorProcess(NamedTuple):
    """The process of an actor.

    Attributes:
        handle: the actor's handle.
        node: Ray's id of its node.
        pid: process id on that node.
    """

    handle: Any
    node: str
    pid: int

    @classmethod
    def own(cls) -> ActorProcess:
        """The process of the calling actor."""
        import ray

        context = ray.get_runtime_context()
        return cls(context.current_actor, context.get_node_id(), os.getpid())

    def end(self) -> None:
        """End the process even if it hangs; Ray may restart the actor."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray.kill(self.handle, no_restart=False)
        # Before 2.54, Ray asks a process to end, and one that hangs never hears of it.
        if tuple(map(int, ray.__version__.split(".")[:2])) < (2, 54):
            there = NodeAffinitySchedulingStrategy(self.node, soft=False)
            ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_kill).remote(self.pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            os.kill(pid, signal.SIGKILL)


def beside_driver() -> dict[str, Any]:
    """Options for an actor on the driver's node that takes no CPU.

    Ray places an actor without requirements on any node, even on one that may go at any moment.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }


def worker_cpus() -> int:
    """Logical CPUs of the calling Ray worker, at least one."""
    import ray

    assigned = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(assigned.get("CPU", 1)))
