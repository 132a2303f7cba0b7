"""`catdog doctor`: one check for each thing that a job needs, with a remedy if it fails."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro.conf

from catdog import machine, storage
from catdog.errors import CatdogError
from catdog.version import __version__

Check = Callable[[], str]

_PACKAGES = ("ray", "tensorflow", "keras", "openvino", "pyarrow", "pillow", "s3fs", "numpy")
# `classify` with the shipped model keeps to 1.1 GB; training's decoding needs more.
_LEAST_MEMORY_BYTES = 2 * 2**30
# Ray asks for at least 75 MB of shared memory, and spills early where there is little.
_LEAST_SHARED_MEMORY_BYTES = 200 * 2**20
_LEAST_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What to try.

    Attributes:
        places: Folders or buckets of a job. Inputs are listed and read. Where writing is allowed, a
            file is created, created again (which must be refused), and deleted.
        address: A Ray cluster to connect to, or the URL of the job server that `submit` sends jobs
            to. (default: `RAY_ADDRESS`, else a new local cluster)
    """

    places: tyro.conf.Positional[tuple[str, ...]] = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was checked.
        ok: whether a job can rely on it.
        said: what was found.
        remedy: what to do; empty if nothing needs to be done.
    """

    name: str
    ok: bool
    said: str
    remedy: str = ""


class _AmissError(Exception):
    """A check found something that will not work."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.remedy = remedy


def examine(config: DoctorConfig, job_server: Check | None = None) -> Iterator[Finding]:
    """Run every check; the quick ones come first.

    Args:
        config: what to try beyond this machine.
        job_server: takes the place of Ray's check where the address is that of a job server.
    """
    yield _found("catdog", _version)
    yield _found("packages", _packages)
    yield _found("CPU", _cpu)
    yield _found("memory", _memory)
    yield _found("shared memory", _shared_memory)
    yield _found("temporary files", _temporary_files)
    for place in config.places:
        yield _found(place, functools.partial(_place, place))
    yield _found("model", _model)
    if job_server is not None:
        yield _found("job server", job_server)
    else:
        yield _found("Ray", functools.partial(_ray, config.address))


def _found(name: str, check: Check) -> Finding:
    try:
        return Finding(name, ok=True, said=check())
    except _AmissError as error:
        return Finding(name, ok=False, said=str(error), remedy=error.remedy)
    except (CatdogError, OSError) as error:
        return Finding(name, ok=False, said=_reason(error))
    except Exception as error:
        return Finding(name, ok=False, said=" ".join(f"{type(error).__name__}: {error}".split()))


def _version() -> str:
    return f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"


def _packages() -> str:
    """Every requirement of catdog is installed, in a version that was tested."""
    from packaging.requirements import Requirement

    wrong = []
    for line in importlib.metadata.requires("catdog-ray") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
    if wrong:
        raise _AmissError(
            "; ".join(wrong), "install into an environment of its own: `make install`, or pip"
        )
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)


def _cpu() -> str:
    from catdog.runtime import tensorflow_quirks

    flags = machine.cpu_flags()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    precision = "bfloat16" if tensorflow_quirks.cpu_has_bfloat16() else "float32"
    return (
        f"{machine.usable_cpus()} usable ({', '.join(known) or 'no AVX'}); computes in {precision}"
    )


def _memory() -> str:
    limit = machine.memory_limit()
    if limit < _LEAST_MEMORY_BYTES:
        raise _AmissError(
            f"{_gib(limit)} for this process and those beside it",
            f"give it at least {_gib(_LEAST_MEMORY_BYTES)}",
        )
    return f"{_gib(limit)} for this process and those beside it"


def _shared_memory() -> str:
    free = shutil.disk_usage("/dev/shm").free  # noqa: S108 - its name on every Linux
    said = f"{_gib(free)} free in /dev/shm"
    if free < _LEAST_SHARED_MEMORY_BYTES:
        raise _AmissError(said, "Ray keeps its objects there: `docker run --shm-size=2g`")
    return said


def _temporary_files() -> str:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    said = f"{_gib(free)} free in {folder}"
    if free < _LEAST_FREE_BYTES:
        raise _AmissError(said, "Ray spills there: free some space, or set TMPDIR")
    return said


_TO_DO = {
    "s3": "catdog reads the usual AWS_* variables and profiles: AWS_PROFILE, or "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL for other stores",
    "gs": "catdog reads GOOGLE_APPLICATION_CREDENTIALS, or asks the machine that it runs on",
    "az": "catdog reads AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN; AZURE_STORAGE_ENDPOINT for other stores",
}


def _place(place: str) -> str:
    """Whether a job could read there, write there, and create a file exactly once."""
    uri = storage.to_uri(place)
    if storage.is_local(uri):
        if not Path(storage.local_path(uri)).is_dir():
            raise _AmissError("is not a folder", "name a folder, or a bucket and prefix")
        next(Path(storage.local_path(uri)).iterdir(), None)
    else:
        try:
            next(storage.remote_pages(uri.rstrip("/") + "/"), None)
        except (CatdogError, OSError) as error:
            raise _AmissError(
                _reason(error), _TO_DO.get(uri.partition("://")[0], "name a bucket")
            ) from error
    said = "listed"
    probe = storage.join(uri, f"_doctor-{uuid.uuid4().hex[:12]}")
    try:
        first = storage.write_new(probe, b"catdog doctor")
    except (CatdogError, OSError) as error:
        return f"{said}; inputs only, since writing fails: {_reason(error)}"
    try:
        if storage.read_bytes(probe, 1024) != b"catdog doctor":
            raise _AmissError(f"{said}, but what is written reads differently", "use another store")
        if not first or storage.write_new(probe, b"a second writer"):
            raise _AmissError(
                f"{said}, written and read, but a second writer may overwrite the first",
                "keep results elsewhere: this store has no create-if-absent",
            )
    finally:
        storage.delete(probe)
    return f"{said}, written, read, created only once, deleted"


def _model() -> str:
    """The answers of the model that ships, on a drawn cat and a drawn dog."""
    from catdog import prediction
    from catdog.demo import drawings

    model = prediction.load()
    cat, dog = model.predict([drawings.draw_jpeg(label, seed=1) for label in ("cat", "dog")])
    for answer in (cat, dog):
        if answer.error or answer.probability is None or not 0.5 <= answer.probability <= 1:
            raise _AmissError(f"answers {answer}", "install catdog again")
    return f"cats-and-dogs answers {cat.label} for a drawn cat, {dog.label} for a drawn dog"


def _ray(address: str | None) -> str:
    """A task runs on a worker of the cluster that a job would use."""
    from catdog.runtime import ray_quirks

    with ray_quirks.connect(address):
        import ray

        where = ray.get(ray.remote(num_cpus=0)(platform.node).remote(), timeout=60)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        cpus = ray.cluster_resources().get("CPU", 0)
        gpus = ray.cluster_resources().get("GPU", 0)
    address = address or os.environ.get("RAY_ADDRESS")
    which = f"the cluster at {address}" if address else "a local cluster starts"
    return f"{which}: nodes {len(nodes)}, CPUs {cpus:.0f}, GPUs {gpus:.0f}; a task ran on {where}"


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
