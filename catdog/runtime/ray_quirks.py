"""The one place where Ray's quirks are met and explained: start, settings, logs, data context."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import queue
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from catdog.errors import CatdogError, UserInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# A silent network partition holds running tasks for minutes under Ray's defaults (427 s measured);
# with these the tasks come back within about 20 s. They must be equal on head, workers and driver,
# so they are for clusters that catdog starts itself: a driver that pings more often than the
# cluster of somebody else allows is hung up on (`Too many pings`), and loses every call that lasts
# longer than a few pings. cluster/ sets the same values (a test compares them).
FAULT_DETECTION_SETTINGS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # An image that exhausts a node's memory must not be retried for ever (-1 is Ray's default).
    "RAY_task_oom_retries": "3",
}

_DRIVER_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keeps a FutureWarning away
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_task_oom_retries": FAULT_DETECTION_SETTINGS[
        "RAY_task_oom_retries"
    ],  # a task's owner reads it
    # Ray Data divides the CPUs of each node among the jobs that it knows of, in whole ones: of one
    # CPU two jobs get none. A driver that was killed counts as a job for so long (180 is Ray's
    # default), and the job that goes on from its results gets no node that joins meanwhile.
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "40",
    # A training worker that does not answer is given up after so long (600 is Ray's default). It
    # answers beside its work, so that only one that is stopped or stuck is silent.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
}

# Ray's default restarts a dying actor of Ray Data, and its task, for ever.
BOUNDED_RESTARTS = {"max_restarts": 4, "max_task_retries": 4}

# A cloud's machine, its start-up and the container's image, where an autoscaler brings nodes.
_NODES_COME_WITHIN_S = 900.0
# A worker that is started again by hand or by Kubernetes, where none does.
_NODES_RETURN_WITHIN_S = 60.0
# Ray aborts a process whose head has been away for 60 s, without a word to anybody: say it sooner.
_HEAD_RETURNS_WITHIN_S = 45.0

_GO_ON = "run the same command again (`train` with --resume): it goes on from what is written"


@contextlib.contextmanager
def connect(address: str | None, *, minimum_cpus: int | None = None) -> Iterator[None]:
    """A connection to the cluster at `address`, or to an embedded local one that ends with it.

    A process that is connected already stays so, and its cluster is used.

    Args:
        address: a Ray address; None means `RAY_ADDRESS`, or an embedded cluster where that is unset.
        minimum_cpus: logical CPUs that the embedded cluster has at least, so that more workers
            than cores can be asked for on a laptop.

    Raises:
        UserInputError: no cluster answers at `address`.
    """
    for name, value in _DRIVER_SETTINGS.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address:
        _check_answers(address)
    import ray

    # Ray Data takes about a second to import; Ray takes longer to start, mostly waiting.
    importing = threading.Thread(target=importlib.import_module, args=("ray.data",), daemon=True)
    importing.start()
    if ray.is_initialized():
        importing.join()
        _quiet_data_context()
        yield
        return
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            with _fault_detection():
                ray.init(
                    "local",
                    num_cpus=max(os.cpu_count() or 1, minimum_cpus or 1),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserInputError(
                f"--address {address}: no Ray cluster answers ({first_line})"
            ) from error
        raise CatdogError(f"Ray does not start on this machine: {error}") from error
    try:
        importing.join()
        _quiet_data_context()
        if address:
            _share_on_head()
        yield
    finally:
        if ray.is_initialized() and _head_answers():  # else Ray would wait to say goodbye to it
            ray.shutdown()


@contextlib.contextmanager
def _fault_detection() -> Iterator[None]:
    """The settings for what is started meanwhile; what is started later does not inherit them."""
    missing = FAULT_DETECTION_SETTINGS.keys() - os.environ.keys()
    os.environ.update({name: FAULT_DETECTION_SETTINGS[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing listens: Ray would try it for 15 minutes (measured)."""
    if "://" in address and not address.startswith("ray://"):
        raise UserInputError(
            f"--address {address}: not a Ray cluster's address, such as head:6379; "
            "to a job server's URL, send the command with `catdog submit`"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or what only Ray knows
    try:
        _knock(host, port, timeout_s=10)
    except OSError as error:
        raise UserInputError(
            f"--address {address}: no Ray cluster answers ({error.strerror or error}); "
            "leave it out to use this machine alone"
        ) from error


def _head_answers() -> bool:
    """Whether something listens where the head of the cluster was. Ray's own calls wait for it."""
    import ray
    from ray.util.client import ray as client

    if client.is_connected():  # through the head's client server, which notices by itself
        return True
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        _knock(host, port, timeout_s=2)
    except OSError:
        return False
    return True


def _knock(host: str, port: str, *, timeout_s: float) -> None:
    """Raise the OSError of a connection that cannot be made; IPv6 addresses are in brackets."""
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


def _quiet_data_context() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _share_on_head() -> None:
    """Have what the Ray Data jobs of a cluster share run on its head.

    The first driver starts three actors for good, on its own node. Where that is not the head and
    goes, the jobs of all other drivers fail, or wait for these actors without end.
    """
    import ray
    from ray.util.client import ray as client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node["NodeID"] for node in _heads() if node["Alive"]]
    if client.is_connected() or ray.get_runtime_context().get_node_id() in heads or not heads:
        return
    there = NodeAffinitySchedulingStrategy(heads[0], soft=True)
    start = ray.remote(num_cpus=0, scheduling_strategy=there)(_start_shared_actors)
    ray.get(start.remote())


def _start_shared_actors() -> None:
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator
    from ray.data._internal.execution.node_trackers import actor_location
    from ray.data._internal.stats import get_or_create_stats_actor

    default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()
    actor_location.get_or_create_actor_location_tracker()
    get_or_create_stats_actor()


def _heads() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]


def cluster_resources() -> tuple[int, int]:
    """Logical CPUs and GPUs of the whole cluster."""
    import ray

    resources: dict[str, Any] = ray.cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


def room(*, cpus: int = 0, gpus: int = 0) -> int:
    """How many workers of so many logical CPUs and GPUs each the live nodes hold, busy or not."""
    import ray

    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            parts = [(has.get("CPU", 0), cpus), (has.get("GPU", 0), gpus)]
            total += int(min(there // each for there, each in parts if each))
    return total


def autoscales(*, patience_s: float = 0.0) -> bool:
    """Whether something starts nodes for this cluster where work waits for them.

    Ray has no question for it. Launcher and KubeRay name the group of every node, the head's as
    well; and an autoscaler's monitor, which KubeRay starts a moment after the head, leaves its
    address. A head that was started by hand has a monitor too, which only looks on.

    Args:
        patience_s: how long to wait for the monitor, where there is a group.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    if not any(node["Labels"].get("ray.io/node-group") for node in _heads()):
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
    on_wait: Callable[[str], None],
    timeout_s: float = _NODES_COME_WITHIN_S,
) -> None:
    """Have the autoscaler make room for workers, and wait for it; without one there is no waiting.

    Args:
        workers: that must find room at the same time.
        cpus: logical CPUs of a worker.
        gpus: GPUs of a worker.
        on_wait: is told how far it is whenever that changes.
        timeout_s: of the waiting.

    Raises:
        UserInputError: the cluster is smaller, and nothing will make it larger.
        CatdogError: the autoscaler has not made it large enough in time.
    """
    found = room(cpus=cpus, gpus=gpus)
    if found >= workers:
        return
    shape = " and ".join(
        f"{count} {name}{'s' if count > 1 else ''}"
        for count, name in ((cpus, "CPU"), (gpus, "GPU"))
        if count
    )
    missing = "the cluster has room for {found} of {workers} workers of {shape} each"
    if not autoscales(patience_s=10):
        raise UserInputError(
            missing.format(found=found, workers=workers, shape=shape)
            + ", and no autoscaler; start nodes, or ask for fewer --workers"
        )
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": cpus} if cpus else {}
    bundle |= {"GPU": gpus} if gpus else {}
    deadline, asked, told = time.monotonic() + timeout_s, 0.0, -1
    try:
        while (found := room(cpus=cpus, gpus=gpus)) < workers:
            now = time.monotonic()
            if now > deadline:
                raise CatdogError(
                    missing.format(found=found, workers=workers, shape=shape)
                    + f" after {timeout_s:.0f} s of waiting for its autoscaler; look at `ray status` "
                    "and at the largest size of its pools, or ask for fewer --workers"
                )
            if found != told:
                told = found
                on_wait(f"waiting for nodes: room for {found} of {workers} workers")
            if now - asked > 5:  # other jobs of the cluster overwrite the wish
                asked = now
                request_resources(bundles=[bundle] * workers)
            time.sleep(0.5)
    finally:
        # The wish outlives the job; from here on the workers themselves keep the nodes.
        request_resources(bundles=[])


class NodeWatch:
    """Gives up when a job has had no head, or no nodes to run on, for too long.

    Ray waits for nodes for ever, and ends the process where the head is gone.

    Args:
        workers: without room for so many the job cannot go on.
        cpus: logical CPUs of a worker.
        gpus: GPUs of a worker.
    """

    def __init__(self, workers: int, *, cpus: int = 0, gpus: int = 0) -> None:
        self._workers, self._shape = workers, {"cpus": cpus, "gpus": gpus}
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
        if not _head_answers():
            if now - self._head_seen > _HEAD_RETURNS_WITHIN_S:
                raise CatdogError(
                    f"the head of the cluster has been away for {_HEAD_RETURNS_WITHIN_S:.0f} s; "
                    f"start a cluster and {_GO_ON}"
                )
            return
        self._head_seen = now
        found = room(**self._shape)
        if found >= self._workers:
            self._last_seen = now
        elif now - self._last_seen > self._patience_s:
            kind = "GPUs" if self._shape["gpus"] else "CPUs"
            lack = (
                f"no node with {kind} has been left"
                if found == 0
                else f"the nodes have had room for {found} of {self._workers} workers only"
            )
            raise CatdogError(f"{lack} for {self._patience_s:.0f} s; start nodes and {_GO_ON}")


def watched(batches: Iterator[T], watch: NodeWatch) -> Iterator[T]:
    """Hand on what a Ray Data job yields, as long as it has nodes to run on.

    Raises:
        CatdogError: by `watch`; or whatever the job raises.
    """
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for batch in batches:
                ready.put(("batch", batch))
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    threading.Thread(target=read, name="ray-data", daemon=True).start()
    while True:
        try:
            kind, value = ready.get(timeout=1.0)
        except queue.Empty:
            watch.check()
            continue
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value


def beside_driver() -> dict[str, Any]:
    """Options of an actor that ends with the driver's node and no sooner, and takes no CPU.

    Ray starts an actor that wants nothing on any node, also on one that may go at any moment.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }


def worker_cpus() -> int:
    """Logical CPUs of the calling Ray worker's own share, at least one."""
    import ray

    assigned = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(assigned.get("CPU", 1)))


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The filesystem and path that Ray Train wants, through s3fs on S3.

    pyarrow's own S3 filesystem does not wait out throttling (5 of 120 writes got through a store
    that answered 503; s3fs' retries brought all 120).
    """
    import pyarrow.fs

    from catdog import storage

    filesystem, path = storage.filesystem(uri)
    if uri.startswith("file://"):
        return pyarrow.fs.LocalFileSystem(), path
    from catdog.storage.patient_s3 import PatientS3FileSystem

    # The least part of a multipart upload is 5 MiB; `storage` reads in smaller blocks.
    options = filesystem.storage_options | {"default_block_size": 8 * 2**20}
    filesystem = PatientS3FileSystem(**options, skip_instance_cache=True)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path


def root_cause(error: BaseException) -> str:
    """One line that says what happened inside a worker.

    Ray wraps a worker's exception, Ray Data and Ray Train wrap that once more and keep the original
    as the text of a traceback only; its message is what follows the innermost stack.
    """
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    innermost = str(error).split("\n\nThe above exception was the direct cause")[0]
    message: list[str] = []
    for line in innermost.splitlines():
        if line.startswith((" ", "\t", "Traceback ")):
            message = []
        elif line.strip() and "ray::" not in line:
            message.append(line.strip())
    text = " ".join(message) or repr(error)
    return re.sub(r"^(catdog\.errors\.|catdog\.storage\.|builtins\.)\w+: ", "", text)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what Ray raises into a `CatdogError` of one line, the traceback kept as its cause."""
    import ray

    try:
        yield
    except CatdogError:
        raise
    except ray.exceptions.ActorUnavailableError as error:
        raise CatdogError(f"a worker does not answer; look at its node, then {_GO_ON}") from error
    except ray.exceptions.RayError as error:
        raise CatdogError(root_cause(error)) from error
