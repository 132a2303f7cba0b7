"""Checks that an existing cluster fits this driver, before anything is computed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import platform
import re
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from catdog.errors import CatdogError, UserInputError
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# What the code on every worker imports, by the name it is imported by.
_NEEDED_BY_WORKERS = (
    "catdog",
    "fsspec",
    "numpy",
    "openvino",
    "pandas",
    "PIL",
    "pyarrow",
    "s3fs",
    "scipy",
    "tyro",
)
# A task that needs no CPU starts a process and runs, also on a busy node; a silent node is not ours
# to find here.
ANSWER_WITHIN_S = 60.0
_REMEDY = (
    "install catdog in the image of the nodes (cluster/Dockerfile), or in their Python "
    "(`pip install catdog-ray`), or have Ray do it: `--install`"
)
_RAY_AND_PYTHON = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def refusal(address: str, error: BaseException) -> UserInputError:
    """The meaning of Ray's connection error, in one line."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 8:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(chain)
    pairs = _RAY_AND_PYTHON.findall(text)
    if "ersion mismatch" in text and len(pairs) >= 2:
        (ray_there, python_there), (ray_here, python_here) = pairs[:2]
        return UserInputError(
            f"--address {address}: the cluster runs Ray {ray_there} on Python {python_there}, this "
            f"command Ray {ray_here} on Python {python_here}; make an environment with Python "
            f"{python_there} and `pip install catdog-ray ray=={ray_there}`, or "
            "send the command to the cluster with `catdog submit`"
        )
    if "AuthenticationError" in text:
        return UserInputError(
            f"--address {address}: the cluster asks for its token and got none, or a wrong one; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        )
    first_line = next((line for line in str(error).splitlines() if line.strip()), repr(error))
    return UserInputError(f"--address {address}: no Ray cluster answers ({first_line.strip()})")


def check(
    nodes: Sequence[dict[str, Any]],
    packages: Sequence[str] = (),
    *,
    within_s: float = ANSWER_WITHIN_S,
) -> None:
    """Inspect each node that can work with a task, which costs no more than the start of its process.

    Args:
        nodes: the cluster's nodes, as `ray.nodes` returns them.
        packages: packages that this job's workers import besides those that all workers import.
        within_s: seconds after which a node without an answer is skipped.

    Raises:
        UserInputError: a node lacks packages, or has another catdog.
        CatdogError: a node could not install the dependencies.
    """
    for node, found in _look_around(nodes, (*_NEEDED_BY_WORKERS, *packages), within_s):
        _judge(node["NodeManagerAddress"], found)


class ObjectRoom(NamedTuple):
    """The room for objects in a cluster.

    Attributes:
        nodes: number of working nodes.
        store_bytes: size of all nodes' object stores together.
        disk_bytes: room for further objects on their disks.
        notices: one line for each thing that makes the stores slow.
    """

    nodes: int
    store_bytes: int
    disk_bytes: int
    notices: tuple[str, ...]

    def holds(self, count: int) -> bool:
        """Whether there is room for this many bytes, with the copies on nodes that read from others."""
        return count * min(self.nodes, 2) <= self.store_bytes + self.disk_bytes


def object_room(nodes: Sequence[dict[str, Any]]) -> ObjectRoom:
    """The room for objects in a cluster.

    Args:
        nodes: the cluster's nodes, as `ray.nodes` returns them.
    """
    works = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    held = sum(node["Resources"].get("object_store_memory", 0) for node in works)
    free = 0
    lines = []
    for node, found in _look_around(works, ()):
        free += found["spill_bytes"]
        there = found["shared_bytes"]
        if there is not None and there < node["Resources"].get("object_store_memory", 0):
            lines.append(
                f"node {node['NodeManagerAddress']}: its object store lies on disk, since /dev/shm has "
                f"{gigabytes(there)}; a container gets more with `--shm-size`, a pod with a volume of "
                "medium Memory"
            )
    return ObjectRoom(len(works), int(held), free, tuple(lines))


def gigabytes(count: float) -> str:
    """Bytes as a text."""
    return f"{count / 1e9:.2f} GB"


def _look_around(
    nodes: Sequence[dict[str, Any]], packages: Sequence[str], within_s: float = ANSWER_WITHIN_S
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The nodes that can work and answer, with the findings on each."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    works = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    asked = {
        ray.remote(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )(_looker()).remote(packages): node
        for node in works
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=within_s)
    for reference in answered:
        try:
            yield asked[reference], ray.get(reference)
        except ray.exceptions.RuntimeEnvSetupError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise CatdogError(
                f"--install: node {asked[reference]['NodeManagerAddress']} could not install what "
                f"workers need: {lines[-1]}"
            ) from error
        except ray.exceptions.RayError:
            continue  # the node has just gone: whoever watches the job sees it


def _judge(node: str, found: dict[str, Any]) -> None:
    missing = [name for name in found["missing"] if name != "catdog"]
    if missing:
        raise UserInputError(
            f"--address: node {node} lacks Python packages that workers need: "
            f"{', '.join(missing)} (its Python is {found['python']}); {_REMEDY}"
        )
    if "catdog" in found["missing"]:
        raise UserInputError(f"--address: node {node} has no catdog; {_REMEDY}")
    if found["catdog"] != __version__:
        raise UserInputError(
            f"--address: node {node} has catdog {found['catdog']}, this command is {__version__}; "
            "install the same on both, or send it along with `catdog submit`"
        )


def _looker() -> Callable[[Sequence[str]], dict[str, Any]]:
    """The function that runs on a node. It is a closure, which Ray sends whole: catdog may be missing there."""

    def look(names: Sequence[str]) -> dict[str, Any]:
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        catdog = None
        if "catdog" not in missing:
            catdog = importlib.import_module("catdog.version").__version__
        shared_bytes = None
        with contextlib.suppress(OSError):  # where the system has none
            there = os.statvfs("/dev/shm")  # noqa: S108 - Ray's place, looked at only
            shared_bytes = there.f_blocks * there.f_frsize
        disk = shutil.disk_usage(tempfile.gettempdir())
        return {
            "missing": missing,
            "catdog": catdog,
            "python": platform.python_version(),
            "shared_bytes": shared_bytes,
            # Ray writes objects no more once a disk is 95 % full.
            "spill_bytes": max(0, disk.free - disk.total // 20),
        }

    return look
