"""The block of memory that the decoding child and its parent share: its layout, in one place."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from catdog.errors import ImageRejected

if TYPE_CHECKING:
    import numpy.typing as npt

    from catdog.pixels.decoding import DecodedImage
    from catdog.pixels.preprocessing import Preprocessing

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("error", pa.string()),
        pa.field("error_detail", pa.string()),
        pa.field("decoded", pa.float32()),
    ]
)
"""The outcome of an image: columns that the results have under the same names."""

SLOTS = 3  # one that the parent looks at, one ready for it, one being filled


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Consecutive entries, read and decoded.

    Attributes:
        start: position of the first one within the entries.
        stop: position after the last one.
        rows: int64 (n,), positions of the decoded entries within all entries, ascending.
        pixels: uint8 (n, H, W, 3), the pixels of `rows`: a view of memory that is overwritten when
            the next batch is requested.
        outcomes: a row for each entry from `start` to `stop`, rejected ones included; OUTCOME_SCHEMA.
        read_s: seconds that decoding waited for bytes.
        decode_s: seconds of decoding.
        bytes_read: bytes of encoded images.
        waiting: number of further batches that were ready when this one was taken.
    """

    start: int
    stop: int
    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    outcomes: pa.RecordBatch
    read_s: float
    decode_s: float
    bytes_read: int
    waiting: int


class SlotState(NamedTuple):
    """How far a slot is filled; its fields are those of `DecodedBatch`."""

    position: int
    finished: int = 0
    decoded: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    bytes_read: int = 0


class Memory:
    """The block of memory that parent and child share: what is being decoded, and the slots.

    It needs no locks: the parent reads a slot after a message about it or after the child's death, and
    uses the entry being decoded only as a hint of when to look again.
    """

    _DECODING = struct.Struct("<qq")
    _SLOT = struct.Struct("<qqqddq")  # SlotState
    # Size or -1, width, height, decoded share, format, error, detail.
    _ROW = struct.Struct("<qiif16s16s460s")
    _LINE = 64  # bytes from one of the first two to the next

    def __init__(self, descriptor: int, preprocessing: Preprocessing, batch_size: int) -> None:
        self._batch_size = batch_size
        self._bytes = mmap.mmap(descriptor, self.length(preprocessing, batch_size))
        shape = (SLOTS, batch_size, preprocessing.height, preprocessing.width, 3)
        start = self._rows_at(SLOTS, batch_size)
        self.pixels: npt.NDArray[np.uint8] = np.ndarray(shape, np.uint8, self._bytes, start)

    @classmethod
    def length(cls, preprocessing: Preprocessing, batch_size: int) -> int:
        """Bytes of the whole block."""
        pixels = SLOTS * batch_size * preprocessing.height * preprocessing.width * 3
        return cls._rows_at(SLOTS, batch_size) + pixels

    @classmethod
    def _rows_at(cls, slot: int, batch_size: int) -> int:
        """Where a slot's rows start; after the last slot's, the pixels do."""
        return cls._LINE * (1 + SLOTS) + slot * batch_size * cls._ROW.size

    def clear(self) -> None:
        """Forget the previous job. Only while no child is at work."""
        self.set_decoding(-1, 0)
        for slot in range(SLOTS):
            self.set_slot(slot, SlotState(-1))

    def decoding(self) -> tuple[int, int]:
        """The entry that is being decoded (-1: none), and its bytes."""
        entry, size = self._DECODING.unpack_from(self._bytes, 0)
        return entry, size

    def set_decoding(self, entry: int, size: int) -> None:
        """Notes that decoding of an entry (-1: none) begins."""
        self._DECODING.pack_into(self._bytes, 0, entry, size)

    def slot(self, slot: int) -> SlotState:
        """How far a slot is filled."""
        return SlotState(*self._SLOT.unpack_from(self._bytes, self._LINE * (1 + slot)))

    def set_slot(self, slot: int, state: SlotState) -> None:
        """Notes how far a slot is filled."""
        self._SLOT.pack_into(self._bytes, self._LINE * (1 + slot), *state)

    def write_row(
        self, slot: int, index: int, size: int, outcome: DecodedImage | ImageRejected
    ) -> None:
        """Record the outcome of a slot's image number `index`; `size` is -1 if unknown."""
        if isinstance(outcome, ImageRejected):
            values = (0, 0, 0.0, b"", outcome.code.value.encode(), outcome.detail.encode())
        else:
            share = outcome.decoded
            values = (outcome.width, outcome.height, share, outcome.format.encode(), b"", b"")
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
        texts = [[_text(value) for value in row[4:]] for row in rows]
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
                "decoded": [row[3] if ok else None for row, ok in zip(rows, decoded, strict=True)],
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
            waiting=self._waiting(stop, len(entries)),
        )

    def _waiting(self, start: int, entries: int) -> int:
        """Slots that are filled with what comes from entry `start` on."""
        states = (self.slot(slot) for slot in range(SLOTS))
        return sum(
            start <= each.position
            and each.finished == min(self._batch_size, entries - each.position)
            for each in states
        )


def _text(padded: bytes) -> str | None:
    # A detail may have been cut within a character.
    return padded.rstrip(b"\0").decode(errors="ignore") or None


def anonymous_file() -> int:
    """The descriptor of an unnamed file in memory, which ends with its last user."""
    if hasattr(os, "memfd_create"):  # Linux; unlike /dev/shm, containers do not make it small
        return os.memfd_create("catdog-decoding")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
