"""Compares places of images: the same photos as files or objects, plain or in archives, near or far.

    python -m benchmarks.sources --photos FOLDER --output benchmarks/sources.json

In turns, `catdog classify` runs a whole job with the shipped model on each place. The rates leave out
start-up. The objects come from one SeaweedFS server on this machine. It shares the cores, so its own CPU
time is given beside each rate. For "50 ms", a proxy in between delays each request by that time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import preparation
from benchmarks.here import circumstances, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "sources"
LATENCY_S = 0.05


def measure(photos: Path | None, images: int, rounds: int) -> dict[str, Any]:
    """Images/s, and the server's CPU seconds, of each place; the median of the rounds."""
    from tests.conftest import S3Server

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        local = _places(scratch, photos, images)
        (scratch / "server").mkdir()
        server = S3Server(scratch / "server")
        server.start()
        try:
            server.shell(f"s3.bucket.create -name {BUCKET}")
            _upload(server.endpoint, server.environment, local)
            with _late(server.endpoint) as far:
                return _in_turns(scratch, local, server, far, rounds)
        finally:
            server.kill()


def _places(scratch: Path, photos: Path | None, images: int) -> dict[str, Path]:
    """The photos as files, in a tar and in a zip."""
    folder = scratch / "files" / "photos"
    folder.parent.mkdir()
    preparation.prepare_photos(photos, folder, images)
    tar, zip_ = scratch / "photos.tar", scratch / "photos.zip"
    with tarfile.open(tar, "w") as to_tar, zipfile.ZipFile(zip_, "w") as to_zip:
        for path in sorted(folder.iterdir()):
            to_tar.add(path, path.name)
            to_zip.write(path, path.name)
    return {"files": folder, "tar": tar, "zip": zip_}


def _upload(endpoint: str, environment: dict[str, str], local: dict[str, Path]) -> None:
    import s3fs

    store = s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=endpoint,
    )
    for path in local.values():
        store.put(str(path), f"{BUCKET}/{path.name}", recursive=True)


def _in_turns(
    scratch: Path, local: dict[str, Path], server: Any, far: str, rounds: int
) -> dict[str, Any]:
    jobs = {f"local {name}": (str(path), {}) for name, path in local.items()}
    for where, endpoint in (("S3", server.endpoint), ("S3, 50 ms away", far)):
        environment = server.environment | {"AWS_ENDPOINT_URL": endpoint}
        for name, path in local.items():
            jobs[f"{where} {name}"] = (f"s3://{BUCKET}/{path.name}", environment)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (source, environment) in jobs.items():
            before = cpu_seconds(server.pid)
            told = _classify(source, scratch / "results", environment)
            served = cpu_seconds(server.pid) - before
            told["server_cpu_s"] = served
            seen[name].append(told)
            sys.stdout.write(f"{name}: {json.dumps(told)}\n")
            sys.stdout.flush()
    return {
        name: {
            key: round(statistics.median(each[key] for each in figures), 3) for key in figures[0]
        }
        for name, figures in seen.items()
    }


def _classify(source: str, results: Path, environment: dict[str, str]) -> dict[str, float]:
    shutil.rmtree(results, ignore_errors=True)
    cpus = str(len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "catdog", "classify", source, "--output", str(results)]
    command += ["--no-report", "--json", "--workers", cpus]
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=inherited | environment, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if told["classified"] != told["planned"]:
        sys.exit(f"{source}: {told['errors']}")
    return {"images_per_s": told["images_per_s"], "seconds": told["seconds"]}


@contextlib.contextmanager
def _late(endpoint: str) -> Iterator[str]:
    """The address of a proxy that hands on to the server what comes, later."""
    context = multiprocessing.get_context("spawn")
    ports: Any = context.SimpleQueue()
    server_port = int(endpoint.rpartition(":")[2])
    process = context.Process(target=_run_proxy, args=(server_port, ports), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get()}"
    finally:
        process.kill()
        process.join()


def _run_proxy(server_port: int, ports: Any) -> None:
    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection("127.0.0.1", server_port)
            await asyncio.gather(
                _copy(reader, forth, LATENCY_S), _copy(back, writer, 0.0), return_exceptions=True
            )

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float
) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(2**18):
            if latency_s:
                loop.call_later(latency_s, writer.write, data)
            else:
                writer.write(data)
                await writer.drain()
    finally:
        loop.call_later(latency_s, writer.close)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; drawings if left out")
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = {
        **circumstances(),
        "images": given.images,
        "rounds": given.rounds,
        "places": measure(given.photos, given.images, given.rounds),
    }
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
