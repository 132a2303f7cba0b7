"""The results folder as the ledger sees it: names, and files that appear whole or not at all.

Everything that this room, and whoever writes results, does to the folder is one of these
operations. docs/protocol.md says which file is made by which of them.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from catdog import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")
R = TypeVar("R")

_MAX_BYTES = 2**31  # of a file that is read whole
_THREADS = 16  # these wait for a disk or a network
_MAX_WAITING = 1000


@dataclass(frozen=True)
class Folder:
    """A folder by its URI; local or S3.

    A version stands for one content of one file: each time that a file is written it gets another.
    """

    uri: str

    def names(self, below: str = "") -> list[str]:
        """Sorted names in the folder, or in a folder below; none where there is no such folder."""
        return storage.list_names(storage.join(self.uri, below) if below else self.uri)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """A whole file and its version, or None where there is none."""
        try:
            return storage.read_version(self._at(name), _MAX_BYTES)
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """A seekable file, for readers that want parts of it."""
        return storage.open_input(self._at(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one. Whether it holds `data` now; one of several wins."""
        return storage.write_new(self._at(name), data)

    def replace(self, name: str, data: bytes, version: str) -> bool:
        """Write over a file if it still has this version. Whether it holds `data` now."""
        return storage.write_over(self._at(name), data, version)

    def remove(self, name: str, version: str) -> None:
        """Delete a file if it still has this version."""
        storage.delete_version(self._at(name), version)

    def write(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write a file of any size that has a name of nobody else's."""
        return storage.open_atomic(self._at(name))

    def discard(self, name: str) -> None:
        """Delete a file that nobody else knows of."""
        storage.delete(self._at(name))

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What the function gives for each item, in order, several at a time."""
        left = iter(items)
        with concurrent.futures.ThreadPoolExecutor(_THREADS, "catdog-folder") as pool:
            # Not all at once: each that waits is a kilobyte.
            while some := list(itertools.islice(left, _MAX_WAITING)):
                yield from pool.map(function, some)

    def _at(self, name: str) -> str:
        return storage.join(self.uri, name)
