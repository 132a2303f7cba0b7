"""The one place for Ray's quirks, with explanations: start, settings, logs, data context."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import threading
import uuid
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from catdog import scratch
from catdog.errors import CatdogError, Terminated, UserInputError
from catdog.runtime import dependencies, embedded, fit, nodes, package

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keeps a FutureWarning away
    "RAY_TRAIN_V2_ENABLED": "1",
    # A task's owner reads it, which is the driver.
    "RAY_task_oom_retries": FAULT_DETECTION_SETTINGS["RAY_task_oom_retries"],
    # Ray Data divides the CPUs of each node among the jobs that it knows of, in whole ones: of one
    # CPU two jobs get none. A driver that was killed counts as a job for so long (180 is Ray's
    # default), and the job that goes on from its results gets no node that joins meanwhile. Ray reads
    # it from 2.54 on.
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "40",
    # A training worker that does not answer is given up after so long (600 is Ray's default). It
    # answers beside its work, so that only one that is stopped or stuck is silent.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
}


# What Ray raises where it does not start or connect, besides.
_REFUSALS = (ConnectionError, ValueError, RuntimeError)

# What ends with the process, where that is about to end by `embedded.abandon`.
_left_open: list[contextlib.ExitStack] = []


@contextlib.contextmanager
def connect(
    address: str | None,
    *,
    minimum_cpus: int | None = None,
    packages: Sequence[str] = (),
    labels: Sequence[str | None] = (None,),
    install: bool = False,
) -> Iterator[None]:
    """Connect to the cluster at `address`, or to an embedded local one that ends with the block.

    A process that is already connected stays so, and its cluster is used.

    Args:
        address: a Ray address; None means `RAY_ADDRESS`, or an embedded cluster if that is unset.
        minimum_cpus: the least number of logical CPUs of the embedded cluster, so that a laptop can
            run more workers than it has cores.
        packages: packages that this job's workers import besides those that all workers import; the
            cluster's nodes must have them.
        labels: labels `KEY=VALUE`; the job uses the nodes with any of them. None for all nodes.
        install: have the nodes install this package's dependencies, and send it along.

    Raises:
        UserInputError: no cluster answers at `address`, or it does not fit this driver.
    """
    with _driver_settings():
        yield from _connected(address, minimum_cpus, packages, labels, install=install)


def _connected(
    address: str | None,
    minimum_cpus: int | None,
    packages: Sequence[str],
    labels: Sequence[str | None],
    *,
    install: bool,
) -> Iterator[None]:
    embedded.expect_a_home()
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address:
        _check_answers(address)
    import ray

    # Ray Data takes about a second to import; Ray takes longer to start, mostly waiting.
    importing = threading.Thread(target=importlib.import_module, args=("ray.data",), daemon=True)
    importing.start()
    from catdog import storage

    told = storage.for_workers()
    if ray.is_initialized():
        _check_told(told)
        importing.join()
        with _quiet_data_context():
            yield
        return
    stack = contextlib.ExitStack()
    try:
        if address:
            with embedded.keeping_sigterm(), _runtime_env(told, packages, install=install) as env:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=env)
        else:
            with _fault_detection():
                stack.enter_context(embedded.cluster(minimum_cpus or 1, told))
    except Exception as error:
        if address and isinstance(error, _REFUSALS):
            raise fit.refusal(address, error) from error
        # A plain one is what Ray raises of a node that is not up after 30 s (2.51 to 2.60).
        if not isinstance(error, _REFUSALS) and type(error) is not Exception:
            raise
        raise CatdogError(f"Ray does not start on this machine: {error}") from error
    try:
        importing.join()
        stack.enter_context(_quiet_data_context())
        if address:
            used = {node["NodeID"]: node for label in labels for node in nodes.labelled(label)}
            within_s = dependencies.INSTALLED_WITHIN_S if install else fit.ANSWER_WITHIN_S
            fit.check(list(used.values()), packages, within_s=within_s)
            _share_on_head()
        yield
    except Terminated:
        _left_open.append(stack.pop_all())
        raise
    finally:
        # Without a head Ray would wait to say goodbye to it.
        if not _left_open and ray.is_initialized() and nodes.head_answers():
            embedded.shut_down_ray()
        stack.close()


def _check_told(variables: dict[str, str]) -> None:
    """Refuse an existing connection whose workers lack variables that this job needs."""
    import ray

    there = ray.get_runtime_context().runtime_env.get("env_vars") or {}
    if not variables.items() <= there.items():
        raise UserInputError(
            "--source-profile and the like: this process is connected to Ray already, so its "
            "workers would not have them; call catdog before ray.init()"
        )


@contextlib.contextmanager
def _runtime_env(
    variables: dict[str, str], packages: Sequence[str], *, install: bool
) -> Iterator[dict[str, Any] | None]:
    """The runtime environment of this job's workers, for the connection."""
    if not install:
        yield {"env_vars": variables} if variables else None
        return
    with scratch.temporary_folder() as folder:
        package.stage(folder)
        env = dependencies.runtime_env(uuid.uuid4().hex, tensorflow="tensorflow" in packages)
        yield env | {"working_dir": str(folder), "env_vars": env["env_vars"] | variables}


def _set_missing(settings: dict[str, str]) -> set[str]:
    """Set the variables that the environment lacks; returns their names."""
    missing = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in missing})
    return missing


@contextlib.contextmanager
def _driver_settings() -> Iterator[None]:
    """Apply the settings for this job; restore the program's own afterwards.

    After a failure they stay, since threads of Ray Data may run for a moment longer.
    """
    missing = _set_missing(_DRIVER_SETTINGS)
    yield
    for name in missing:
        os.environ.pop(name, None)


@contextlib.contextmanager
def _fault_detection() -> Iterator[None]:
    """The settings for what is started meanwhile; what is started later does not inherit them."""
    missing = _set_missing(FAULT_DETECTION_SETTINGS)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens; Ray would try it for 15 minutes (measured)."""
    if "://" in address and not address.startswith("ray://"):
        raise UserInputError(
            f"--address {address}: not a Ray cluster's address, such as head:6379; "
            "to a job server's URL, send the command with `catdog submit`"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or what only Ray knows
    try:
        nodes.knock(host, port, timeout_s=10)
    except OSError as error:
        raise UserInputError(
            f"--address {address}: no Ray cluster answers ({error.strerror or error}); "
            "leave it out to use this machine alone"
        ) from error


@contextlib.contextmanager
def _quiet_data_context() -> Iterator[None]:
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before


def map_batches(dataset: Any, actor: type, *, node_label: str | None = None, **options: Any) -> Any:
    """`Dataset.map_batches` with actors that restart at most four times.

    They run on the nodes with the label `KEY=VALUE`, or on any node.

    By default Ray restarts a dying actor, and its task, for ever. Ray 2.60 deprecates the arguments that
    limit this, plans to remove them in 2.64, and has no others yet.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", DeprecationWarning)
        options |= nodes.on_label(node_label)
        return dataset.map_batches(actor, **options, max_restarts=4, max_task_retries=4)


def _share_on_head() -> None:
    """Have the actors that all Ray Data jobs of a cluster share run on its head.

    The first driver starts three permanent actors on its own node. If that is not the head and goes
    away, the jobs of all other drivers fail or wait for these actors for ever.
    """
    import ray
    from ray.util.client import ray as client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node["NodeID"] for node in nodes.heads() if node["Alive"]]
    if client.is_connected() or ray.get_runtime_context().get_node_id() in heads or not heads:
        return
    there = NodeAffinitySchedulingStrategy(heads[0], soft=True)
    start = ray.remote(num_cpus=0, scheduling_strategy=there)(_start_shared_actors)
    ray.get(start.remote())


def _start_shared_actors() -> None:
    from ray.data._internal.execution.node_trackers import actor_location

    actor_location.get_or_create_actor_location_tracker()
    # Not before Ray 2.52; 2.51 starts it beside the driver, under another name.
    with contextlib.suppress(ImportError):
        from ray.data._internal.stats import get_or_create_stats_actor

        get_or_create_stats_actor()
    # Not before Ray 2.53.
    with contextlib.suppress(ImportError):
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator

        default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The filesystem and path for Ray Train; on S3 through s3fs.

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
    """One line about what happened inside a worker.

    Ray wraps a worker's exception; Ray Data and Ray Train wrap it again and keep the original only as the
    text of a traceback. The original's message follows the innermost stack.
    """
    # Ray has a paragraph of possible causes for a kill by the kernel, and of settings for its own.
    if memory := embedded.memory_ran_out():
        return memory
    if "running low on memory" in str(error):
        return (
            "memory ran out on a node, where Ray ended workers; lower --workers or --batch-size, "
            "or take nodes with more"
        )
    if "local disk's utilization is over capacity" in str(error):
        return (
            f"{embedded.spills_to()}: the disk is full, and Ray keeps there what does not fit its "
            "memory; free some space, or set TMPDIR to a folder that has more"
        )
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    # The innermost of our own names what the system's error behind it does not.
    if ours := re.search(r"^catdog\.(?:errors|storage)\.\w*Error: (.+)$", str(error), re.MULTILINE):
        return ours[1]
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
    """Turn Ray's exceptions into a `CatdogError` of one line, with the traceback as its cause."""
    import ray

    try:
        yield
    except CatdogError:
        raise
    except ray.exceptions.ActorUnavailableError as error:
        raise CatdogError(
            f"a worker does not answer; look at its node, then {nodes.GO_ON}"
        ) from error
    except ray.exceptions.RayError as error:
        raise CatdogError(root_cause(error)) from error
