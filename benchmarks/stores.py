"""Clients of S3 side by side: s3fs, `catdog.storage` on obstore with s3fs behind it, obstore alone.

    python -m benchmarks.stores --output benchmarks/stores.json

All read from one SeaweedFS server on this machine, each in its own process, in turns. The figures are
requests per second, and seconds of the client's CPU time per 1,000 requests; the server's CPU time is
given beside them, since it shares the machine. Then each client reads objects through a proxy that
answers 503, hangs or cuts bodies; counted are right, wrong and failed objects, and the seconds.
docs/decisions/015 draws the conclusions.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.here import circumstances, cpu_seconds

BUCKET = "stores"
OBJECT_BYTES = 23_000  # a photo of the benchmark's collection
RANGE_BYTES = 64 * 1024
ARCHIVE_BYTES = 64 * 2**20


FAULTY_OBJECTS = 200


def measure(objects: int, keys: int, ranges: int, rounds: int) -> dict[str, Any]:
    """Every client on every task, in turns; the median of the rounds, of which a listing has one."""
    from tests.conftest import S3Server

    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            os.environ.update(server.environment)
            server.shell(f"s3.bucket.create -name {BUCKET}")
            _fill(server.endpoint, objects, keys)
            tasks = {
                f"listing of {keys:,} keys": ("list", keys, 1),
                **{f"64 kB ranges, {n} in flight": ("ranges", ranges, n) for n in (1, 8, 64)},
                **{f"objects of 23 kB, {n} in flight": ("objects", objects, n) for n in (8, 64)},
            }
            found: dict[str, Any] = {}
            for name, task in tasks.items():
                seen: dict[str, list[dict[str, float]]] = {client: [] for client in _CLIENTS}
                for _ in range(1 if task[0] == "list" else rounds):
                    for client, figures in seen.items():
                        figures.append(_in_process(client, *task, server=server))
                found[name] = {
                    client: {
                        key: round(statistics.median(each[key] for each in figures), 3)
                        for key in figures[0]
                    }
                    for client, figures in seen.items()
                }
                sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
                sys.stdout.flush()
            return {"tasks": found, "faults": _all_faults(server.endpoint)}
        finally:
            server.kill()


def _store(endpoint: str) -> Any:
    from obstore.store import S3Store

    return S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )


def _fill(endpoint: str, objects: int, keys: int) -> None:
    import obstore

    store = _store(endpoint)
    data = os.urandom(OBJECT_BYTES)
    obstore.put(store, "archive.bin", os.urandom(ARCHIVE_BYTES))

    def put(folder: str, content: bytes, numbers: range) -> None:
        for number in numbers:
            obstore.put(store, f"{folder}/{number:07d}.jpg", content)

    with ThreadPoolExecutor(32) as pool:
        for start in range(32):
            pool.submit(put, "photos", data, range(start, objects, 32))
            pool.submit(put, "keys", b"", range(start, keys, 32))


def _all_faults(endpoint: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, fault in {
        "no fault": Fault(),
        "503 to every second request": Fault(refused=2),
        "every 100th request hangs": Fault(hung=100),
        "every tenth body is cut": Fault(cut=10),
    }.items():
        found[name] = {client: _of_faulty(client, fault, endpoint) for client in _CLIENTS}
        sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
        sys.stdout.flush()
    return found


@dataclass(frozen=True)
class Fault:
    """Every how many requests it happens; 0: never."""

    refused: int = 0
    hung: int = 0
    cut: int = 0


def _of_faulty(client: str, fault: Fault, endpoint: str) -> dict[str, float]:
    """What one client gets of the objects, 8 in flight, in a process of its own."""
    from tests.storage.servers import Answering, serving

    class Proxy(Answering):
        protocol_version = "HTTP/1.1"
        numbers = itertools.count(1)

        def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
            number = next(self.numbers)

            def happens(every: int) -> bool:
                return every > 0 and number % every == 0

            if happens(fault.hung):
                time.sleep(600)  # in a thread that nobody waits for
            if happens(fault.refused):
                self.answer(503, b"<Error><Code>SlowDown</Code></Error>")
                return
            asked = http.client.HTTPConnection(endpoint.removeprefix("http://"))
            asked.putrequest("GET", self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                asked.putheader(name, value)
            asked.endheaders()
            answer = asked.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            if happens(fault.cut):
                body, self.close_connection = body[: len(body) // 2], True
            self.wfile.write(body)

    with serving(Proxy) as proxy:
        queue: Any = multiprocessing.get_context("spawn").SimpleQueue()
        process = multiprocessing.get_context("spawn").Process(
            target=_run_faulty, args=(client, proxy.url, queue)
        )
        process.start()
        found: dict[str, float] = queue.get()
        process.join()
    return found


def _run_faulty(client: str, endpoint: str, queue: Any) -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    operation = _CLIENTS[client]("objects", endpoint)
    found = {"right": 0, "wrong": 0, "failed": 0}

    def one(number: int) -> str:
        try:
            return "right" if operation(number) == OBJECT_BYTES else "wrong"
        except Exception:
            return "failed"

    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        for outcome in pool.map(one, range(FAULTY_OBJECTS)):
            found[outcome] += 1
    queue.put(found | {"seconds": round(time.perf_counter() - started, 2)})


def _in_process(
    client: str, task: str, count: int, in_flight: int, *, server: Any
) -> dict[str, float]:
    """One client, one task, in a process that does nothing else."""
    queue: Any = multiprocessing.get_context("spawn").SimpleQueue()
    before = cpu_seconds(server.pid)
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(client, task, count, in_flight, server.endpoint, queue)
    )
    process.start()
    seconds, cpu = queue.get()
    process.join()
    served = cpu_seconds(server.pid) - before
    return {
        "per_s": count / seconds,
        "client_cpu_s_per_1000": 1000 * cpu / count,
        "server_cpu_s_per_1000": 1000 * served / count,
    }


def _run(client: str, task: str, count: int, in_flight: int, endpoint: str, queue: Any) -> None:
    operation = _CLIENTS[client](task, endpoint)
    if task != "list":
        operation(0)  # connections and imports are not what is compared
    started, cpu = time.perf_counter(), time.process_time()
    if task == "list":
        operation(0)
    elif in_flight == 1:
        for number in range(count):
            operation(number)
    else:
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(operation, range(count)))
    queue.put((time.perf_counter() - started, time.process_time() - cpu))


def _s3fs(task: str, endpoint: str) -> Any:
    # What the room's door does not offer, changed for this process: every range is left to s3fs.
    importlib.import_module("catdog.storage.ranges").read = lambda *_: None  # type: ignore[attr-defined]
    return _ours(task, endpoint)


def _ours(task: str, _: str) -> Any:
    from catdog import storage

    def one(number: int) -> int:
        if task == "list":
            return sum(len(keys) for keys, _ in storage.remote_pages(f"s3://{BUCKET}/keys/"))
        if task == "ranges":
            offset = number * RANGE_BYTES % (ARCHIVE_BYTES - RANGE_BYTES)
            return len(storage.read_range(f"s3://{BUCKET}/archive.bin", offset, RANGE_BYTES))
        return len(storage.read_bytes(f"s3://{BUCKET}/photos/{number:07d}.jpg", 2**20))

    return one


def _theirs(task: str, endpoint: str) -> Any:
    import obstore

    store = _store(endpoint)

    def one(number: int) -> int:
        if task == "list":
            pages = obstore.list(store, "keys/", chunk_size=1000, return_arrow=False)
            return sum(len(page) for page in pages)
        if task == "ranges":
            start = number * RANGE_BYTES % (ARCHIVE_BYTES - RANGE_BYTES)
            return len(obstore.get_range(store, "archive.bin", start=start, length=RANGE_BYTES))
        return len(obstore.get(store, f"photos/{number:07d}.jpg").bytes())

    return one


_CLIENTS = {"s3fs": _s3fs, "catdog.storage": _ours, "obstore": _theirs}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=1_000_000, help="of the listing")
    parser.add_argument("--ranges", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = {
        **circumstances(),
        **measure(options.objects, options.keys, options.ranges, options.rounds),
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        options.output.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
