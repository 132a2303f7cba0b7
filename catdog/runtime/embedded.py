"""The Ray cluster of a command without an address: it starts and ends with the command, closed to others.

Ray's defaults are open to every account on the machine: ports on all interfaces, folders in mode
0777, a token that outlives the job. Here everything lies in a folder that only this user can enter,
and every port is on loopback and asks for a token.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog import machine, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

# A socket's path has at most 107 bytes; that much of it is Ray's, with the largest process id:
# /r/session_2026-11-27_11-43-50_808221_4194304/sockets/plasma_store
_LONGEST_FOLDER = 107 - 66
# Ray's default, of the memory that is free when it starts; what does not fit goes to disk.
_OBJECT_STORE_SHARE = 0.3
# Ray refuses a smaller one.
_SMALLEST_OBJECT_STORE = 80 * 2**20
# For logs and sockets, in the folder for temporary files.
_LEAST_FREE_BYTES = 16 * 2**20
# Seconds for a process that was told to end; it holds nothing worth more time.
_PROCESSES_END_WITHIN_S = 3.0


def expect_a_home() -> None:
    """Name a home folder if this account has none: Ray Train cannot be imported without one.

    Nothing is kept there. An existing folder would be read for configuration, even somebody else's.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"


def memory_ran_out() -> str:
    """A hint if the kernel killed processes of a local cluster for lack of memory; else empty."""
    if not _kills_before or machine.memory_kills() <= _kills_before[-1]:
        return ""
    return (
        f"memory ran out: {machine.memory_limit() / 2**30:.1f} GiB are allowed to this process and "
        "those beside it; lower --workers or --batch-size, or allow more"
    )


_kills_before: list[int] = []  # one number for each cluster that runs: one, or none


def spills_to() -> str:
    """The place, in words, where Ray writes objects that do not fit its object store."""
    return tempfile.gettempdir() if _kills_before else "the temporary folder of a node"


@contextlib.contextmanager
def cluster(minimum_cpus: int = 1, variables: dict[str, str] | None = None) -> Iterator[None]:
    """A local Ray cluster, with this process connected to it, until the end of the block.

    Whatever ends the block, nothing of the cluster is left: no process, folder, token or variable.

    Args:
        minimum_cpus: the least number of logical CPUs; by default those that this process may use.
        variables: environment variables for its workers, besides this process's.

    Raises:
        OSError: no private folder can be created.
        DiskFullError: there is too little space for temporary files.
        RuntimeError, ValueError, ConnectionError: Ray's own, when it does not start.
    """
    with contextlib.ExitStack() as stack:
        _kills_before.append(machine.memory_kills())
        stack.callback(_kills_before.pop)
        folder = stack.enter_context(scratch.private_folder(longest=_LONGEST_FOLDER))
        large = folder
        if folder.parent != Path(tempfile.gettempdir()):  # which may be small, unlike the usual one
            large = stack.enter_context(scratch.private_folder())
        stack.enter_context(_environment(folder))
        stack.enter_context(_loopback_only())
        stack.callback(end_processes, folder, 0.0)
        with _variables({"TMPDIR": str(large / "tmp")}):
            _start(folder, large, max(machine.usable_cpus(), minimum_cpus), variables)
        stack.callback(end_processes, folder, _PROCESSES_END_WITHIN_S)  # they were told to, by then
        yield


def _start(folder: Path, large: Path, cpus: int, variables: dict[str, str] | None) -> None:
    import ray

    _refuse_full_disk(folder, large)
    # Workers have their temporary files in the private folder, too: what a killed one leaves there
    # (TensorFlow's generated code, for one) goes with it.
    (large / "tmp").mkdir(0o700)
    # Ray writes this path into a shell line as it is, for workers with a runtime environment.
    quoted = shlex.quote(sys.executable)
    runtime_env: dict[str, Any] = {"env_vars": variables} if variables else {}
    if quoted != sys.executable:
        runtime_env["py_executable"] = quoted
    with keeping_sigterm():
        ray.init(
            "local",
            num_cpus=cpus,
            object_store_memory=_object_store_memory(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=runtime_env or None,
            _temp_dir=str(folder / "r"),  # Ray opens this one to everybody, whatever its mode was
            object_spilling_directory=str(large / "s"),
        )


def _refuse_full_disk(*places: Path) -> None:
    """Refuse to start where Ray cannot write its logs: its workers would never come up."""
    for place in places:
        with scratch.naming_full(place.parent):
            if shutil.disk_usage(place).free < _LEAST_FREE_BYTES:
                raise OSError(errno.ENOSPC, "Ray needs more")


def _object_store_memory() -> int | None:
    """Bytes of the object store if a control group limits memory; None leaves the choice to Ray.

    Ray looks for limits where a container usually has them, and for no others.
    """
    limit = machine.memory_limit()
    if limit >= machine.memory():
        return None
    return max(_SMALLEST_OBJECT_STORE, int(limit * _OBJECT_STORE_SHARE))


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Set the cluster's own token, for this process and those that it starts."""
    from ray import _raylet

    raylet: Any = _raylet  # it comes without types
    # Ray before 2.52 has no tokens.
    loader: Any = getattr(raylet, "AuthenticationTokenLoader", None)
    token = folder / "token"
    token.touch(0o600, exist_ok=False)
    token.write_text(secrets.token_hex(32))
    access: dict[str, str | None] = {
        "RAY_AUTH_MODE": None,  # Ray turns tokens on by itself, as long as nobody names a mode
        "RAY_AUTH_TOKEN": None,
        "RAY_AUTH_TOKEN_PATH": str(token),
        # `_loopback_only` for processes that this one starts, to connect to the same cluster.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    try:
        with _variables(access):
            if loader:
                loader.instance().reset_cache()
            yield
    finally:
        if loader:
            loader.instance().reset_cache()
            # The mode of the environment again, for a connection elsewhere.
            raylet.Config.initialize("")


@contextlib.contextmanager
def _variables(values: dict[str, str | None]) -> Iterator[None]:
    """Set these variables in the environment, or unset those with None, until the end."""
    before = {name: os.environ.get(name) for name in values}
    _set_variables(values)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Make Ray take 127.0.0.1 as this node's address, as it does on macOS.

    Elsewhere Ray replaces that address by the network's. Its servers bind to loopback only if that
    is the node's address, and to all interfaces otherwise.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, if it has one; Ray's own exits without a message."""
    from ray._private import utils

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        yield
        return
    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before
        # Ray's C++ part has put itself before Python's, and aborts 3 s after the signal.
        _put_again()


def shut_down_ray() -> None:
    """Shut Ray down, and keep this process's handler of SIGTERM meanwhile and afterwards.

    Ray's C++ part gives SIGTERM its default action as it ends, which ends the process without a
    word; Python still takes its own handler for the one in place.
    """
    import ray

    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    ending = threading.Thread(target=ray.shutdown)
    ending.start()
    while ending.is_alive():
        _put_again()
        ending.join(0.01)
    _put_again()


def _put_again() -> None:
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


_abandoned: dict[int, str] = {}


def abandon() -> None:
    """Stop and remove what this process has started, before it ends by `end_abandoned`.

    For a process whose threads may still use Ray: as soon as Ray is shut down or its processes end,
    its C++ part ends this process, too, with an exit code of its own.
    """
    for folder in list(scratch.in_use):
        while new := _processes_of(folder).keys() - _abandoned.keys():
            for pid in new:
                _abandoned[pid] = _started(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        shutil.rmtree(folder, ignore_errors=True)


def end_abandoned() -> None:
    """End the processes that `abandon` stopped."""
    for pid, started in _abandoned.items():
        if _started(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_processes(folder: Path, after_s: float) -> None:
    """End what is left of Ray's processes after so many seconds.

    Some outlive a Ray that is stopped while it starts, because they only check for their parent process
    from time to time.
    """
    ours = _processes_of(folder)
    deadline, killed = time.monotonic() + after_s, False
    while left := {
        pid: started
        for pid, started in (ours | _processes_of(folder)).items()
        if _started(pid) == started
    }:
        if time.monotonic() > deadline:
            if killed:
                return  # they wait for a disk, and end when it answers
            killed, deadline = True, deadline + _PROCESSES_END_WITHIN_S
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes_of(folder: Path) -> dict[int, str]:
    """Processes with the folder's path among their arguments, and all their descendants.

    Returns:
        The start time of each, by process id, since ids are reused.
    """
    parents: dict[int, int] = {}
    named: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError, IndexError):
            parents[pid] = int(_status(pid)[1])
            # As Ray gives it: `--session-dir=/tmp/...`
            if b"=" + os.fsencode(folder) in (entry / "cmdline").read_bytes():
                named.add(pid)
    found = named
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found = found | more
    return {pid: started for pid in found if (started := _started(pid))}


def _started(pid: int) -> str:
    """The start time of a process; empty if it has ended."""
    try:
        state, _, *rest = _status(pid)
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else rest[17]


def _status(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` behind the name: state, parent and so on."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
