"""What was there before: sets of URIs that fit the memory, and the last of several with one name."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.inputs.entries import PLAN_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt


def digests(uris: pa.Array[Any]) -> npt.NDArray[np.uint64]:
    """A number for each text, which no other text has."""
    # Python's SipHash: with 64 bits, two of a million URIs collide once in 40 million plans.
    return np.fromiter(map(hash, uris.to_pylist()), dtype=np.int64).view(np.uint64)


class Seen:
    """A set of URIs at 8 bytes each: sorted arrays of hashes, of about doubling size."""

    def __init__(self) -> None:
        self._levels: list[npt.NDArray[np.uint64]] = []

    def add(self, uris: pa.Array[Any]) -> npt.NDArray[np.bool_]:
        """Add these, and tell which ones are new."""
        hashes = digests(uris)
        new = np.zeros(len(hashes), dtype=np.bool_)
        new[np.unique(hashes, return_index=True)[1]] = True
        for level in self._levels:
            at = np.minimum(np.searchsorted(level, hashes), len(level) - 1)
            new &= level[at] != hashes
        level = hashes[new]
        level.sort()
        while self._levels and len(self._levels[-1]) <= 2 * len(level):
            level = np.concatenate([self._levels.pop(), level])
            level.sort(kind="stable")  # radix or merge: both are runs already
        if len(level):
            self._levels.append(level)
        return new


class Spill:
    """Batches kept in a temporary file, and given back without the rows that later ones replace.

    Only the last of several members with the same name is there when they are unpacked, and which
    one is the last is known at the end alone. `./a.jpg` and `a.jpg` are the same name.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=4 << 20)  # noqa: SIM115 - see __exit__
        self._writer = pa.ipc.new_stream(self._file, PLAN_SCHEMA)
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep a batch."""
        self._writer.write_batch(batch)
        # The archive's own row has no container, and may be named as a member is.
        of_member = pc.is_valid(batch.column("container"))
        keys = pc.if_else(of_member, batch.column("name"), batch.column("uri"))
        self._hashes.append(digests(keys))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches, in order."""
        self._writer.close()
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        self._hashes.clear()
        last = len(hashes) - 1 - np.unique(hashes[::-1], return_index=True)[1]
        kept: npt.NDArray[np.bool_] | None = None
        if len(last) < len(hashes):
            kept = np.zeros(len(hashes), dtype=np.bool_)
            kept[last] = True
        self._file.seek(0)
        at = 0
        for batch in pa.ipc.open_stream(self._file):
            if kept is None:
                yield batch
            else:
                yield batch.filter(pa.array(kept[at : at + batch.num_rows]))
            at += batch.num_rows
