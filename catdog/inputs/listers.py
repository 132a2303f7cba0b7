"""Helper processes that list archives, if there are many, since most of that work is Python's."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import pyarrow as pa

from catdog import errors, interpreter, machine, storage
from catdog.errors import CatdogError
from catdog.inputs.members import Archive

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from catdog.inputs.entries import Work

# Until then threads list archives: starting a process takes longer than a small job.
_AFTER_S = 2.0
_MOST = 8  # a driver cannot write the plan faster than this many can list


class Listers:
    """A process for each of up to 8 CPUs, started when a listing takes long. Close it at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._children: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []
        self._turns = itertools.count()
        self._lock = threading.Lock()

    def close(self) -> None:
        """End them."""
        for control, _ in self._children:
            control.close()
        for _, process in self._children:
            process.wait()
        self._children.clear()

    def spread(self, works: Iterator[Work]) -> Iterator[Work]:
        """The works, with those of archives passed to a process."""
        for work in works:
            archive = getattr(work, "__self__", None)
            late = time.monotonic() - self._began >= _AFTER_S
            if late and isinstance(archive, Archive) and machine.usable_cpus() > 1:
                yield partial(self._rows, archive)
            else:
                yield work

    def _rows(self, archive: Archive) -> Iterator[pa.RecordBatch]:
        """What `Archive.rows` gives."""
        try:
            with self._connection() as connection:
                connection.send(archive)
                while (data := connection.recv_bytes())[:1] != b"{":
                    yield pa.ipc.open_stream(data).read_next_batch()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise CatdogError(
                f"{archive.uri}: the process that listed it ended, perhaps because memory ran out; "
                "run the same command again"
            ) from error
        told = json.loads(data)
        if "error" in told:
            kind = getattr(errors, told["error"], getattr(storage, told["error"], CatdogError))
            known = isinstance(kind, type) and issubclass(kind, CatdogError)
            raise (kind if known else CatdogError)(told["text"])
        for skipped, count in told["skips"].items():
            archive.skips.add(skipped, count)

    def _connection(self) -> Connection:
        """A connection to one of them, in turn; each serves several, since storage may be slow."""
        with self._lock:
            if not self._children:
                self._children = [_start() for _ in range(min(_MOST, machine.usable_cpus()))]
            control, _ = self._children[next(self._turns) % len(self._children)]
            ours, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(control, [b"."], [theirs.fileno()])
        return Connection(ours.detach())


def _start() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = interpreter.start("catdog.inputs.lister", [theirs.fileno()])
    return ours, process
