"""The one place where Ray's quirks are met and explained: start, settings, logs, data context."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any

from catdog.errors import CatdogError, UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

# A silent network partition holds running tasks for minutes under Ray's defaults (427 s measured);
# with these the tasks come back within about 20 s. They must be equal on head, workers and driver:
# cluster/ sets the same values (a test compares them).
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
}


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
    for name, value in (FAULT_DETECTION_SETTINGS | _DRIVER_SETTINGS).items():
        os.environ.setdefault(name, value)
    import ray

    # Ray Data takes about a second to import; Ray takes longer to start, mostly waiting.
    importing = threading.Thread(target=importlib.import_module, args=("ray.data",), daemon=True)
    importing.start()
    if ray.is_initialized():
        importing.join()
        _quiet_data_context()
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
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
        yield
    finally:
        ray.shutdown()


def _quiet_data_context() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def cluster_resources() -> tuple[int, int]:
    """Logical CPUs and GPUs of the whole cluster."""
    import ray

    resources: dict[str, Any] = ray.cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


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
    except ray.exceptions.RayError as error:
        raise CatdogError(root_cause(error)) from error
