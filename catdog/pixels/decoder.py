"""A child process that reads and decodes images into shared memory, so that none can do harm.

Native decoders crash, hang and devour memory on hostile files. Here they do it in a process that
this module ends and starts again: the image at fault gets its row, its neighbours their pixels.
At fault is who ends a fresh process too, alone in it: the first one may have died of a neighbour's
damage, or at the hands of the kernel for want of memory.

The two sides share
- a block of memory (`_Memory`): what the child is decoding and since when, and slots that each
  hold one batch (a record an image, and pixels). What was finished before a crash is still there;
- a socket: the parent sends jobs and frees slots, the child says that a slot is filled. The child
  answers in JSON only: of a process that hostile bytes may have taken over, nothing is unpickled;
- a pipe that never carries a byte: its end tells the child that the parent is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from catdog import inputs, storage
from catdog.errors import CatdogError, ErrorCode, ImageRejected
from catdog.pixels import images

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

    import numpy.typing as npt

    from catdog.inputs import SourceLimits
    from catdog.pixels.images import DecodedImage, DecodeLimits, Preprocessing

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("error", pa.string()),
        pa.field("error_detail", pa.string()),
    ]
)
"""What became of an image: the columns that the result has of the same names."""

_SLOTS = 3  # one that the parent looks at, one ready for it, one being filled
_LOCAL_THREADS = 4  # hide a disk's latency; more only contend for the interpreter with decoding
_REMOTE_THREADS = 32  # at 50 ms a request these keep one decoding core busy
_MAX_TRIES = 3  # children that end at the same place without an image to blame

# Address space of s3fs, imported late (30 MiB), and of the reading threads' stacks (8 MiB each).
_READING_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Consecutive entries, read and decoded.

    Attributes:
        start: position of the first one within the entries.
        stop: position after the last one.
        rows: int64 (n,), positions within the entries of those that were decoded, ascending.
        pixels: uint8 (n, H, W, 3), theirs, in that order: a view of memory that is written anew
            when the next batch is asked for.
        outcomes: a row for each entry from `start` to `stop`, also the rejected; OUTCOME_SCHEMA.
        read_s: seconds that decoding waited for bytes.
        decode_s: seconds of decoding.
        bytes_read: of encoded images.
    """

    start: int
    stop: int
    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    outcomes: pa.RecordBatch
    read_s: float
    decode_s: float
    bytes_read: int


class Decoder:
    """Decodes entries of a plan, whatever they hold, in a child process.

    A context manager. The child starts at once and serves every call of `decode`; it ends with the
    `with` block, or with this process. One call of `decode` at a time.

    Args:
        preprocessing: the geometry of the pixels.
        decode_limits: what decoding one image may cost.
        source_limits: what reading may cost.
        batch_size: most entries of a batch.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        decode_limits: DecodeLimits,
        source_limits: SourceLimits,
        batch_size: int,
    ) -> None:
        self._limits = decode_limits
        self._setup = (preprocessing, decode_limits, source_limits, batch_size)
        length = _Memory.length(preprocessing, batch_size)
        self._memory_fd = _anonymous_file()
        os.ftruncate(self._memory_fd, length)
        self._memory = _Memory(self._memory_fd, preprocessing, batch_size)
        self._memory.clear()
        self._child: _Child | None = None
        self._busy = False

    def __enter__(self) -> Self:
        self._child = _Child(self._memory_fd, self._setup)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._child:
            self._child.end()
            self._child = None
        os.close(self._memory_fd)

    @property
    def child_pid(self) -> int | None:
        """The process id of the child that decodes, None outside the `with` block."""
        return self._child.process.pid if self._child else None

    def decode(self, entries: pa.Table) -> Generator[DecodedBatch, None, None]:
        """The images of `entries` (`sources.PLAN_SCHEMA`), in order, each in exactly one batch.

        The batches follow each other without a gap; only their sizes depend on what went wrong.
        Decoding runs ahead of the caller by two batches.

        Raises:
            CatdogError: the child cannot be kept alive, or what it met concerns more than an image
                (`storage.StorageDownError` for one).
        """
        if self._child is None or self._busy:
            raise RuntimeError("a Decoder decodes one table at a time, inside its `with` block")
        self._busy = True
        position, slot, tries, tried_at = 0, 0, 0, -1
        suspect, stop = -1, len(entries)  # whom the last child died of; where the job ends
        try:
            self._memory.clear()
            self._child.send_job(entries[position:stop], position, slot, _SLOTS)
            while position < len(entries):
                filled, overdue = self._wait(self._child)
                if filled:
                    batch: DecodedBatch | None = self._memory.batch(slot, entries)
                else:
                    # One that dies by itself is given the time to: how it did it is the reason.
                    ended = self._child.end(grace_s=5.0 if overdue == -1 else 0.0)
                    batch, culprit = self._salvage(
                        slot, position, entries, ended, overdue=overdue, suspect=suspect
                    )
                    suspect = culprit if culprit >= 0 else suspect
                    place = batch.stop if batch else position
                    tries = tries + 1 if place == tried_at else 1
                    tried_at = place
                    if tries == _MAX_TRIES:
                        raise CatdogError(
                            f"the decoding process ended {tries} times before it decoded "
                            f"{entries['uri'][place]}: {ended}"
                        )
                    held = 1 if batch else 0
                    stop = place + 1 if place == suspect else len(entries)
                    self._child = _Child(self._memory_fd, self._setup)
                    self._child.send_job(
                        entries[place:stop], place, (slot + held) % _SLOTS, _SLOTS - held
                    )
                if batch:
                    yield batch
                    position, slot = batch.stop, (slot + 1) % _SLOTS
                    self._child.free_slot()
                    if position == stop < len(entries):  # the suspect was innocent
                        stop = len(entries)
                        self._child.send_job(entries[position:stop], position, slot, _SLOTS)
        finally:
            if position < len(entries) and self._child:
                # Left half-way: the child is at work for nobody.
                self._child.end()
                self._child = _Child(self._memory_fd, self._setup)
            self._busy = False

    def _wait(self, child: _Child) -> tuple[bool, int]:
        """Waits for the child.

        Returns:
            Whether it filled a slot (else it is dead or must die), and the entry whose decoding
            took too long, or -1.
        """
        while True:
            now = time.monotonic()
            entry, since, _ = seen = self._memory.decoding()
            deadline = (since if entry >= 0 else now) + self._limits.timeout_s
            if child.connection.poll(max(0.0, deadline - now)):
                return child.receive(), -1
            if entry >= 0 and self._memory.decoding() == seen:
                return False, entry

    def _salvage(
        self,
        slot: int,
        position: int,
        entries: pa.Table,
        ended: str,
        *,
        overdue: int,
        suspect: int,
    ) -> tuple[DecodedBatch | None, int]:
        """What a dead child had finished of a batch, and the row of the image that it died of.

        Args:
            slot: that it was filling.
            position: of the slot's first entry.
            entries: of the whole call.
            ended: how it ended, in words.
            overdue: the entry that took too long, or -1.
            suspect: the entry that the child before died of, or -1.

        Returns:
            The batch if it has a row, and the entry that this child died of, or -1.
        """
        state = self._memory.slot(slot)
        if state.position != position:  # it had not begun: what the slot holds is older
            state = _SlotState(position)
        culprit, _, size = self._memory.decoding()
        if culprit != position + state.finished or overdue not in (-1, culprit):
            culprit = -1
        rejected = None
        if culprit >= 0 and overdue >= 0:
            rejected = ImageRejected(
                ErrorCode.TIMEOUT, f"Decoding took more than {self._limits.timeout_s:g} s."
            )
        elif culprit >= 0 and culprit == suspect:
            rejected = ImageRejected(
                ErrorCode.CRASHED, f"Decoding it ended the decoding process twice: {ended}."
            )
        if rejected is not None:
            self._memory.write_row(slot, state.finished, size, rejected)
            state = state._replace(finished=state.finished + 1, bytes_read=state.bytes_read + size)
        self._memory.set_slot(slot, state)
        self._memory.set_decoding(-1, 0)
        return (self._memory.batch(slot, entries) if state.finished else None), culprit


class _SlotState(NamedTuple):
    """How far a slot is filled; its fields are those of `DecodedBatch`."""

    position: int
    finished: int = 0
    decoded: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    bytes_read: int = 0


class _Memory:
    """The block of memory that parent and child share: what is being decoded, and the slots.

    Plain stores suffice: the parent reads a slot after a message about it or after the child's
    death, and what is being decoded only as a hint of when to look again.
    """

    _DECODING = struct.Struct("<qdq")
    _SLOT = struct.Struct("<qqqddq")  # _SlotState
    _ROW = struct.Struct("<qii16s16s464s")  # size or -1, width, height, format, error, detail
    _LINE = 64  # bytes from one of the first two to the next

    def __init__(self, descriptor: int, preprocessing: Preprocessing, batch_size: int) -> None:
        self._batch_size = batch_size
        self._bytes = mmap.mmap(descriptor, self.length(preprocessing, batch_size))
        shape = (_SLOTS, batch_size, preprocessing.height, preprocessing.width, 3)
        start = self._rows_at(_SLOTS, batch_size)
        self.pixels: npt.NDArray[np.uint8] = np.ndarray(shape, np.uint8, self._bytes, start)

    @classmethod
    def length(cls, preprocessing: Preprocessing, batch_size: int) -> int:
        """Bytes of the whole block."""
        pixels = _SLOTS * batch_size * preprocessing.height * preprocessing.width * 3
        return cls._rows_at(_SLOTS, batch_size) + pixels

    @classmethod
    def _rows_at(cls, slot: int, batch_size: int) -> int:
        """Where a slot's rows start; after the last slot's, the pixels do."""
        return cls._LINE * (1 + _SLOTS) + slot * batch_size * cls._ROW.size

    def clear(self) -> None:
        """Forgets the job before. Only while no child is at work."""
        self.set_decoding(-1, 0)
        for slot in range(_SLOTS):
            self.set_slot(slot, _SlotState(-1))

    def decoding(self) -> tuple[int, float, int]:
        """The entry that is being decoded (-1: none), since when (monotonic), and its bytes."""
        entry, since, size = self._DECODING.unpack_from(self._bytes, 0)
        return entry, since, size

    def set_decoding(self, entry: int, size: int) -> float:
        """Notes that decoding of an entry (-1: none) begins now; returns now."""
        now = time.monotonic()
        self._DECODING.pack_into(self._bytes, 0, entry, now, size)
        return now

    def slot(self, slot: int) -> _SlotState:
        """How far a slot is filled."""
        return _SlotState(*self._SLOT.unpack_from(self._bytes, self._LINE * (1 + slot)))

    def set_slot(self, slot: int, state: _SlotState) -> None:
        """Notes how far a slot is filled."""
        self._SLOT.pack_into(self._bytes, self._LINE * (1 + slot), *state)

    def write_row(
        self, slot: int, index: int, size: int, outcome: DecodedImage | ImageRejected
    ) -> None:
        """Notes what became of a slot's image number `index`; `size` is -1 where unknown."""
        if isinstance(outcome, ImageRejected):
            values = (0, 0, b"", outcome.code.value.encode(), outcome.detail.encode())
        else:
            values = (outcome.width, outcome.height, outcome.format.encode(), b"", b"")
        at = self._rows_at(slot, self._batch_size) + index * self._ROW.size
        self._ROW.pack_into(self._bytes, at, size, *values)

    def batch(self, slot: int, entries: pa.Table) -> DecodedBatch:
        """A filled slot, for the caller."""
        state = self.slot(slot)
        start, stop = state.position, state.position + state.finished
        at = self._rows_at(slot, self._batch_size)
        rows = [
            self._ROW.unpack_from(self._bytes, at + index * self._ROW.size)
            for index in range(state.finished)
        ]
        texts = [[_text(value) for value in row[3:]] for row in rows]
        decoded = [error is None for _, error, _ in texts]
        planned = entries["size"].slice(start, state.finished).to_pylist()
        outcomes = pa.RecordBatch.from_pydict(
            {
                "width": [row[1] if ok else None for row, ok in zip(rows, decoded, strict=True)],
                "height": [row[2] if ok else None for row, ok in zip(rows, decoded, strict=True)],
                "format": [format_ for format_, _, _ in texts],
                "size": [
                    row[0] if row[0] >= 0 else size for row, size in zip(rows, planned, strict=True)
                ],
                "error": [error for _, error, _ in texts],
                "error_detail": [detail for _, _, detail in texts],
            },
            schema=OUTCOME_SCHEMA,
        )
        return DecodedBatch(
            start=start,
            stop=stop,
            rows=start + np.flatnonzero(decoded),
            pixels=self.pixels[slot, : state.decoded],
            outcomes=outcomes,
            read_s=state.read_s,
            decode_s=state.decode_s,
            bytes_read=state.bytes_read,
        )


def _text(padded: bytes) -> str | None:
    # A detail may have been cut within a character.
    return padded.rstrip(b"\0").decode(errors="ignore") or None


class _Child:
    """The parent's side of one child process."""

    def __init__(self, memory_fd: int, setup: tuple[Any, ...]) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # Idle thread pools and arenas would fill the address space that is limited.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        with theirs:
            descriptors = (theirs.fileno(), lifeline, memory_fd)
            # A new interpreter, not a fork: the parent has threads (Ray's, TensorFlow's).
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "catdog.pixels.decoder", *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # only until it has started
                pass_fds=descriptors,
                env=environment,
            )
        os.close(lifeline)
        self.connection = Connection(ours.detach())
        self._send(setup)

    def send_job(self, entries: pa.Table, position: int, slot: int, free_slots: int) -> None:
        """Has these entries decoded, the first of which is number `position`, from `slot` on."""
        self._send((entries, position, slot, free_slots))

    def free_slot(self) -> None:
        """Tells the child that the caller is done with the oldest slot."""
        self._send(None)

    def _send(self, message: Any) -> None:
        # A dead child is found out, and replaced, where its answer is waited for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> bool:
        """True if the child filled a slot, False if it is dead.

        Raises:
            CatdogError: what the child reports.
        """
        try:
            message = json.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            return False
        if message["error"] == "":
            return True
        kind = getattr(storage, message["error"], CatdogError)
        if isinstance(kind, type) and issubclass(kind, storage.StorageDownError):
            raise kind(message["text"])
        raise CatdogError(message["text"])

    def end(self, *, grace_s: float = 0.0) -> str:
        """Ends the child, if need be by force. Returns how it ended, in words."""
        if not self.connection.closed:
            self.connection.close()
            os.close(self._lifeline)
        try:
            said = self.process.communicate(timeout=grace_s)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            said = self.process.communicate()[1]
        code = self.process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ", ".join([how, *said.decode(errors="replace").strip().splitlines()[-1:]])


def _serve(connection: Connection, lifeline: int, memory_fd: int) -> None:
    """The child's side: does jobs until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _end_with_parent(lifeline)
    preprocessing, decode_limits, source_limits, batch_size = connection.recv()
    memory = _Memory(memory_fd, preprocessing, batch_size)
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
                position, slot = position + count, (slot + 1) % _SLOTS
        except (EOFError, ConnectionError, MemoryError):
            raise  # no parent; or reading found no memory: the parent starts another child
        except Exception as error:
            text = str(error) if isinstance(error, CatdogError) else f"cannot read: {error!r}"
            report = {"error": type(error).__name__, "text": text}
            connection.send_bytes(json.dumps(report).encode())


def _fill(
    memory: _Memory,
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
    state = _SlotState(position)
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
            began_at = memory.set_decoding(position + index, size)
            try:
                outcome = images.decode(data, preprocessing, limits, out=pixels[decoded])
                decoded += 1
            except ImageRejected as rejected:
                # A new one: the traceback of the old would keep a large image in memory.
                outcome = ImageRejected(rejected.code, rejected.detail)
            read_s += began_at - asked_at
            decode_s += time.monotonic() - began_at
            bytes_read += size
        memory.write_row(slot, index, size, outcome)
        state = _SlotState(position, index + 1, decoded, read_s, decode_s, bytes_read)
        memory.set_slot(slot, state)
        memory.set_decoding(-1, 0)


def _threads(entries: pa.Table) -> int:
    """How many threads should read these entries."""
    columns = entries["container"].to_pylist(), entries["uri"].to_pylist()
    local = all(storage.is_local(container or uri) for container, uri in zip(*columns, strict=True))
    return _LOCAL_THREADS if local else _REMOTE_THREADS


def _end_with_parent(lifeline: int) -> None:
    """Has the kernel end this process when the other end of the pipe closes.

    Not by a thread that waits for it: native code that hangs may never let it run. And not by
    `PR_SET_PDEATHSIG`: that is tied to the thread that started the child, not to its process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)  # SIGIO ends us
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)  # returns only at end of file: the parent went before this was set
        sys.exit()


def memory_bound(decode_limits: DecodeLimits, source_limits: SourceLimits) -> int:
    """Most bytes that the process of a `Decoder` takes beyond what it has when it starts."""
    # Encoded images that wait, one that is larger than all that may wait, one being decoded.
    encoded = source_limits.bytes_in_flight + 2 * source_limits.max_bytes + _READING_BYTES
    return decode_limits.memory_bytes + encoded


def _limit_resources(decode_limits: DecodeLimits, source_limits: SourceLimits) -> None:
    """Bounds the memory that this process can have; a crash leaves no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere address space is not limited, or not known
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory_bound(decode_limits, source_limits)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _anonymous_file() -> int:
    """The descriptor of a file in memory without a name, which ends with its last user."""
    if hasattr(os, "memfd_create"):  # Linux; unlike /dev/shm, containers do not make it small
        return os.memfd_create("catdog-decoding")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


if __name__ == "__main__":
    _socket, _lifeline, _memory_file = map(int, sys.argv[1:])
    # Ends without waiting for the threads that read ahead.
    try:
        _serve(Connection(_socket), _lifeline, _memory_file)
    except MemoryError:
        os._exit(1)
    except (EOFError, ConnectionError):  # the parent hung up
        os._exit(0)
