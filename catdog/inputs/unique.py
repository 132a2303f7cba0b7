"""Repetitions: sets of URIs that fit in memory, and the last of several members with one name."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import scratch
from catdog.inputs.entries import PLAN_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt


# A secret that nobody who names files knows. Python's hash has one, too, unless PYTHONHASHSEED is
# set, and then anybody can make collisions; and its 64 bits collide in one of 3,000 lists of 100 million.
_SALTS = (secrets.token_hex(8), secrets.token_hex(8))


def hashes(texts: pa.Array[Any]) -> npt.NDArray[np.uint64]:
    """128 bits for each text, uint64 (n, 2), unique to the text; in this process only."""
    given = texts.to_pylist()
    found = np.empty((len(given), 2), np.uint64)
    for column, salt in enumerate(_SALTS):
        salted = (hash(f"{salt}{text}") for text in given)
        found[:, column] = np.fromiter(salted, np.int64, len(given)).view(np.uint64)
    return found


def _runs(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """An order that puts equal hashes together, in order of arrival, and where each group starts."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    other = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, np.flatnonzero(np.concatenate([[len(keys) > 0], other]))


class Seen:
    """A set of URIs at 16 bytes each: sorted arrays of hashes, of about doubling size."""

    def __init__(self) -> None:
        self._levels: list[npt.NDArray[np.uint64]] = []

    def add(self, uris: pa.Array[Any]) -> npt.NDArray[np.bool_]:
        """Add these; returns which ones are new."""
        keys = hashes(uris)
        order, starts = _runs(keys)
        new = np.zeros(len(keys), dtype=np.bool_)
        new[order[starts]] = True
        for level in self._levels:
            new &= ~_is_in(level, keys)
        level = keys[new]
        level = level[np.argsort(level[:, 0])]
        while self._levels and len(self._levels[-1]) <= 2 * len(level):
            level = np.concatenate([self._levels.pop(), level])
            level = level[np.argsort(level[:, 0], kind="stable")]  # a merge: both are runs already
        if len(level):
            self._levels.append(level)
        return new


def _is_in(level: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of the keys are in a level, which is sorted by the first half."""
    found = np.zeros(len(keys), dtype=np.bool_)
    at = np.searchsorted(level[:, 0], keys[:, 0])
    looking = np.arange(len(keys))
    while len(looking):  # mostly once: two with the same first half are rare
        looking = looking[at[looking] < len(level)]
        there = level[at[looking]]
        looking, there = (each[there[:, 0] == keys[looking, 0]] for each in (looking, there))
        same = there[:, 1] == keys[looking, 1]
        found[looking[same]] = True
        looking = looking[~same]
        at[looking] += 1
    return found


class Spill:
    """Batches in a temporary file, given back without the rows that later ones replace.

    Unpacking an archive leaves only the last of several members with the same name, and only the end
    of the archive shows which one is the last. `./a.jpg` and `a.jpg` are the same name.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=4 << 20)  # noqa: SIM115 - see close
        self._writer = pa.ipc.new_stream(self._file, PLAN_SCHEMA)
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self.replaced = 0  # rows that later ones replace; known when `batches` begins

    def close(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep a batch."""
        with scratch.naming_full():
            self._writer.write_batch(batch)
        # The archive's own row has no container, and may be named as a member is.
        of_member = pc.is_valid(batch.column("container"))
        keys = pc.if_else(of_member, batch.column("name"), batch.column("uri"))
        self._hashes.append(hashes(keys))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches, in order."""
        self._writer.close()
        if not self._hashes:
            return
        keys = np.concatenate(self._hashes)
        self._hashes.clear()
        order, starts = _runs(keys)
        kept: npt.NDArray[np.bool_] | None = None
        self.replaced = len(keys) - len(starts)
        if self.replaced:
            kept = np.zeros(len(keys), dtype=np.bool_)
            kept[order[np.append(starts[1:], len(keys)) - 1]] = True
        self._file.seek(0)
        at = 0
        for batch in pa.ipc.open_stream(self._file):
            if kept is None:
                yield batch
            else:
                yield batch.filter(pa.array(kept[at : at + batch.num_rows]))
            at += batch.num_rows
