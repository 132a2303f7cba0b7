"""The child process: reads and decodes what the parent asks for, within limits, until it hangs up.

`decoder.Decoder` starts it as a program (`python -m catdog.pixels.child`) and describes the protocol.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import inputs, storage
from catdog.errors import CatdogError, ImageRejected
from catdog.pixels import decoding
from catdog.pixels.shared_memory import SLOTS, Memory, SlotState

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from catdog.inputs import SourceLimits
    from catdog.pixels.decoding import DecodedImage
    from catdog.pixels.preprocessing import DecodeLimits, Preprocessing

_LOCAL_THREADS = 4  # hide a disk's latency; more only contend for the interpreter with decoding
_REMOTE_THREADS = 32  # at 50 ms a request these keep one decoding core busy

# Address space of s3fs, imported late (30 MiB), and of the reading threads' stacks (8 MiB each).
_READING_BYTES = 512 << 20


def _serve(connection: Connection, lifeline: int, memory_fd: int) -> None:
    """Do jobs until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _end_with_parent(lifeline)
    preprocessing, decode_limits, source_limits, batch_size = connection.recv()
    memory = Memory(memory_fd, preprocessing, batch_size)
    _limit_resources(decode_limits, source_limits)
    # libtiff writes to descriptor 2 by itself. From here on, errors travel over the socket.
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    while True:
        job = connection.recv()
        if job is None:  # a slot of a finished job was freed
            continue
        entries, position, slot, free_slots = job
        try:
            encoded = inputs.read_images(entries, source_limits, _threads(entries))
            stop = position + len(entries)
            while position < stop:
                while not free_slots:
                    connection.recv()
                    free_slots += 1
                free_slots -= 1
                count = min(batch_size, stop - position)
                _fill(
                    memory,
                    slot=slot,
                    position=position,
                    count=count,
                    encoded=encoded,
                    preprocessing=preprocessing,
                    limits=decode_limits,
                )
                connection.send_bytes(json.dumps({"error": ""}).encode())
                position, slot = position + count, (slot + 1) % SLOTS
        except (EOFError, ConnectionError, MemoryError):
            raise  # no parent; or reading found no memory: the parent starts another child
        except Exception as error:
            text = str(error) if isinstance(error, CatdogError) else f"cannot read: {error!r}"
            report = {"error": type(error).__name__, "text": text}
            connection.send_bytes(json.dumps(report).encode())


def _fill(
    memory: Memory,
    *,
    slot: int,
    position: int,
    count: int,
    encoded: Iterator[bytes | ImageRejected],
    preprocessing: Preprocessing,
    limits: DecodeLimits,
) -> None:
    """Fills a slot with the next `count` images."""
    pixels = memory.pixels[slot]
    state = SlotState(position)
    memory.set_slot(slot, state)
    for index in range(count):
        _, _, decoded, read_s, decode_s, bytes_read = state
        asked_at = time.monotonic()
        data = next(encoded)
        outcome: DecodedImage | ImageRejected
        if isinstance(data, ImageRejected):
            outcome, size = data, -1
            read_s += time.monotonic() - asked_at
        else:
            size = len(data)
            memory.set_decoding(position + index, size)
            began_at = time.monotonic()
            try:
                outcome = decoding.decode(data, preprocessing, limits, out=pixels[decoded])
                decoded += 1
            except ImageRejected as rejected:
                # A new one: the traceback of the old would keep a large image in memory.
                outcome = ImageRejected(rejected.code, rejected.detail)
            read_s += began_at - asked_at
            decode_s += time.monotonic() - began_at
            bytes_read += size
        memory.write_row(slot, index, size, outcome)
        state = SlotState(position, index + 1, decoded, read_s, decode_s, bytes_read)
        memory.set_slot(slot, state)
        memory.set_decoding(-1, 0)


def _threads(entries: pa.Table) -> int:
    """How many threads should read these entries."""
    columns = entries["container"].to_pylist(), entries["uri"].to_pylist()
    local = all(storage.is_local(container or uri) for container, uri in zip(*columns, strict=True))
    return _LOCAL_THREADS if local else _REMOTE_THREADS


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the other end of the pipe closes.

    A waiting thread would not do, because native code that hangs may never let it run. Nor would
    `PR_SET_PDEATHSIG`, which is tied to the thread that started the child, not to its process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)  # SIGIO ends us
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)  # returns only at end of file: the parent went before this was set
        sys.exit()


def memory_bound(decode_limits: DecodeLimits, source_limits: SourceLimits) -> int:
    """The most bytes that the process of a `Decoder` takes beyond those at its start."""
    # Encoded images that wait, one that is larger than all that may wait, one being decoded.
    encoded = source_limits.bytes_in_flight + 2 * source_limits.max_bytes + _READING_BYTES
    return decode_limits.memory_bytes + encoded


def _limit_resources(decode_limits: DecodeLimits, source_limits: SourceLimits) -> None:
    """Limit the memory of this process, and have a crash leave no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere address space is not limited, or not known
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory_bound(decode_limits, source_limits)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    _socket, _lifeline, _memory_file = map(int, sys.argv[1:])
    # Ends without waiting for the threads that read ahead.
    try:
        _serve(Connection(_socket), _lifeline, _memory_file)
    except MemoryError:
        os._exit(1)
    except (EOFError, ConnectionError):  # the parent hung up
        os._exit(0)
