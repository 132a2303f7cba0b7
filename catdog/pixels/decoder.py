"""A child process that reads and decodes images into shared memory, so that none can do harm.

Native decoders crash, hang and exhaust memory on hostile files. Here they do so in a process that this
module ends and restarts: the image at fault gets a row with an error, its neighbours get their pixels.
An image is at fault if it ends a fresh process, too, alone in it. The first process may have died of
damage by a neighbour, or because the kernel ran out of memory.

The two sides share
- a block of memory (`shared_memory.Memory`): what the child is decoding, and slots with one batch each (a
  record per image, and pixels). What was finished before a crash is still there;
- a socket: the parent sends jobs and frees slots, the child reports filled slots. The child answers in
  JSON only: hostile bytes may have taken it over, so nothing from it is unpickled;
- a pipe that never carries a byte: its end tells the child that the parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from catdog import interpreter, storage
from catdog.errors import CatdogError, ErrorCode, ImageRejected
from catdog.pixels.shared_memory import SLOTS, Memory, SlotState, anonymous_file

if TYPE_CHECKING:
    from collections.abc import Generator

    import pyarrow as pa

    from catdog.inputs import SourceLimits
    from catdog.pixels.preprocessing import DecodeLimits, Preprocessing
    from catdog.pixels.shared_memory import DecodedBatch

_LOOK_S = 0.5  # between two looks at what is being decoded
_MAX_TRIES = 3  # children that end at the same place without an image to blame


class AbandonedError(Exception):
    """Raised by `Decoder.decode` after `Decoder.abandon`."""


class Decoder:
    """Decodes entries of a plan, whatever they hold, in a child process.

    The child starts at once and serves every call of `decode`; it ends with `close`, or with this
    process. One call of `decode` at a time.

    Args:
        preprocessing: the geometry of the pixels.
        decode_limits: limits for decoding one image.
        source_limits: limits for reading.
        batch_size: the largest number of entries per batch.
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
        length = Memory.length(preprocessing, batch_size)
        self._memory_fd = anonymous_file()
        os.ftruncate(self._memory_fd, length)
        self._memory = Memory(self._memory_fd, preprocessing, batch_size)
        self._memory.clear()
        self._busy = self._abandoned = False
        self._child: _Child | None = _Child(self._memory_fd, self._setup)

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.end()
            self._child = None
            os.close(self._memory_fd)

    def abandon(self) -> None:
        """Have `decode`, in another thread, raise `AbandonedError` within half a second."""
        self._abandoned = True

    @property
    def child_pid(self) -> int | None:
        """The process id of the child that decodes, None once it is closed."""
        return self._child.process.pid if self._child else None

    def decode(self, entries: pa.Table) -> Generator[DecodedBatch, None, None]:
        """The images of `entries` (`inputs.PLAN_SCHEMA`), in order, each in exactly one batch.

        The batches follow each other without a gap; only their sizes depend on what went wrong.
        Decoding runs ahead of the caller by two batches.

        Raises:
            CatdogError: the child cannot be kept alive, or it met a failure that concerns more than
                one image, such as `storage.StorageDownError`.
            AbandonedError: somebody called `abandon`.
        """
        if self._child is None or self._busy:
            raise RuntimeError("a Decoder decodes one table at a time, until it is closed")
        self._busy = True
        position, slot, tries, tried_at = 0, 0, 0, -1
        suspect, stop = -1, len(entries)  # whom the last child died of; where the job ends
        try:
            self._memory.clear()
            self._child.send_job(entries[position:stop], position, slot, SLOTS)
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
                        entries[place:stop], place, (slot + held) % SLOTS, SLOTS - held
                    )
                if batch:
                    yield batch
                    position, slot = batch.stop, (slot + 1) % SLOTS
                    self._child.free_slot()
                    if position == stop < len(entries):  # the suspect was innocent
                        stop = len(entries)
                        self._child.send_job(entries[position:stop], position, slot, SLOTS)
        finally:
            if position < len(entries) and self._child and not self._abandoned:
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
        watched, waited = -1, 0.0
        while True:
            if self._abandoned:
                raise AbandonedError
            entry, _ = self._memory.decoding()
            waited = waited if entry == watched else 0.0
            watched = entry
            step = min(_LOOK_S, self._limits.timeout_s - waited)
            if child.connection.poll(step):
                return child.receive(), -1
            # By the steps that were waited, not by the clock: a machine that was suspended, or a
            # virtual one that stood still, lets hours pass while no image is decoded.
            waited += step if entry >= 0 else 0.0
            if waited >= self._limits.timeout_s and self._memory.decoding()[0] == entry:
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
        """The finished part of a dead child's batch, with a row for the image that ended it.

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
            state = SlotState(position)
        culprit, size = self._memory.decoding()
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


class _Child:
    """The parent's side of one child process."""

    def __init__(self, memory_fd: int, setup: tuple[Any, ...]) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        with theirs:
            self.process = interpreter.start(
                "catdog.pixels.child",
                (theirs.fileno(), lifeline, memory_fd),
                errors=subprocess.PIPE,  # only until it has started
                # Idle thread pools and arenas would fill the address space that is limited.
                OPENBLAS_NUM_THREADS="1",
                OMP_NUM_THREADS="1",
                MALLOC_ARENA_MAX="2",
                ARROW_DEFAULT_MEMORY_POOL="system",
            )
        os.close(lifeline)
        self.connection = Connection(ours.detach())
        self._send(setup)

    def send_job(self, entries: pa.Table, position: int, slot: int, free_slots: int) -> None:
        """Send entries to decode; the first has number `position` and goes to `slot`."""
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
        """End the child, by force if necessary. Returns how it ended, in words."""
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
