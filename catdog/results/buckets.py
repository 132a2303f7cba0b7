"""Records in numbered buckets: few stay in memory, many go to files.

Two listings of a hundred million images can be compared bucket by bucket, with one in memory.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import inputs, scratch

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

RANGE = 1 << 19  # positions of a bucket of what is ordered by position
_HASHED = 1024  # buckets of hashes: 200,000 each of two listings of a hundred million images
_MEMORY_BYTES = 32 << 20  # of one kind of record, before they go to files
_WAITING_BYTES = 4 << 20  # before records are put into buckets: few large pieces


def of_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The buckets of hashes."""
    return (hashes % _HASHED).astype(np.int64)


class Buckets:
    """Records of fixed size in numbered buckets; many go to files."""

    def __init__(self, folder: Path, kind: np.dtype[Any]) -> None:
        self._folder, self._kind = folder, kind
        self._waiting: list[tuple[NDArray[np.int64], NDArray[Any]]] = []  # as they came
        self._held: defaultdict[int, list[NDArray[Any]]] = defaultdict(list)
        self._waiting_bytes = self._held_bytes = 0

    def add(self, buckets: NDArray[np.int64], records: NDArray[Any]) -> None:
        """Put each record into the bucket with the given number."""
        if not len(records):
            return
        self._waiting.append((buckets, records))
        self._waiting_bytes += records.nbytes
        if self._waiting_bytes > _WAITING_BYTES:
            self._sort()
        if self._held_bytes > _MEMORY_BYTES:
            self._spill()

    def _sort(self) -> None:
        """Put the waiting records into their buckets."""
        if not self._waiting:
            return
        buckets, records = (np.concatenate(each) for each in zip(*self._waiting, strict=True))
        order = np.argsort(buckets, kind="stable")
        numbers, starts = np.unique(buckets[order], return_index=True)
        for number, part in zip(
            numbers.tolist(), np.split(records[order], starts[1:]), strict=True
        ):
            self._held[number].append(part)
        self._held_bytes += self._waiting_bytes
        self._waiting.clear()
        self._waiting_bytes = 0

    def _spill(self) -> None:
        with scratch.naming_full():
            self._folder.mkdir(exist_ok=True)
            for number, parts in self._held.items():
                with (self._folder / str(number)).open("ab") as file:
                    file.write(np.concatenate(parts).tobytes())
        self._held.clear()
        self._held_bytes = 0

    def numbers(self) -> list[int]:
        """The buckets that are not empty."""
        self._sort()
        spilled = [int(path.name) for path in self._folder.glob("*")]
        return sorted({*self._held, *spilled})

    def take(self, number: int) -> NDArray[Any]:
        """The records of a bucket."""
        self._sort()
        path = self._folder / str(number)
        parts = [np.fromfile(path, self._kind)] if path.exists() else []
        return np.concatenate([np.empty(0, self._kind), *parts, *self._held.get(number, [])])


_KEY = np.dtype([("a", "<u8"), ("b", "<u8"), ("at", "<i8")])
_PLACE = np.dtype([("at", "<i8")])


class Repeats:
    """Which images of a listing have a URI that came before, until it is closed."""

    def __init__(self) -> None:
        self._end = contextlib.ExitStack()
        folder = self._end.enter_context(scratch.private_folder())
        self._keys = Buckets(folder / "keys", _KEY)
        self._later = Buckets(folder / "later", _PLACE)
        self._images = 0

    def close(self) -> None:
        """Delete its files."""
        self._end.close()

    def add(self, uris: pa.Array[Any]) -> None:
        """The next ones of the listing."""
        found = np.empty(len(uris), _KEY)
        found["a"], found["b"] = inputs.hashes(uris).T
        found["at"] = self._images + np.arange(len(uris))
        self._images += len(uris)
        self._keys.add(of_hashes(found["a"]), found)

    def find(self) -> int:
        """How many there are. Call it once, after all were added."""
        count = 0
        for number in self._keys.numbers():
            found = self._keys.take(number)
            found = found[np.lexsort((found["at"], found["b"], found["a"]))]
            same = (found["a"][1:] == found["a"][:-1]) & (found["b"][1:] == found["b"][:-1])
            later = np.empty(int(same.sum()), _PLACE)
            later["at"] = found["at"][1:][same]
            self._later.add(later["at"] // RANGE, later)
            count += len(later)
        return count

    def first(self, start: int, end: int) -> NDArray[np.bool_]:
        """Which images from `start` to below `end` have a URI that was not there before."""
        new = np.ones(end - start, np.bool_)
        for number in range(start // RANGE, (end - 1) // RANGE + 1):
            at = self._later.take(number)["at"]
            new[at[(at >= start) & (at < end)] - start] = False
        return new
