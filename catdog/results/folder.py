"""The results folder as the ledger sees it: names, and files that appear whole or not at all.

This room, and everything that writes results, changes the folder through these operations only.
docs/protocol.md says which operation makes which file.
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

    A version identifies one content of one file; every write gives the file another version.
    """

    uri: str

    def names(self, below: str = "") -> list[str]:
        """Sorted names in the folder, or in a folder below; none where there is no such folder."""
        return storage.list_names(storage.join(self.uri, below) if below else self.uri)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """A whole file and its version, or None where there is none."""
        try:
            return storage.read_version(self._at(name), _MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str) -> BinaryIO:
        """A seekable file, for readers that want parts of it."""
        return storage.open_input(self._at(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists. Returns whether it holds `data` now; one of several writers wins."""
        return storage.write_new(self._at(name), data)

    def replace(self, name: str, data: bytes, version: str) -> bool:
        """Replace a file if it still has this version. Returns whether it holds `data` now."""
        return storage.write_over(self._at(name), data, version)

    def remove(self, name: str, version: str) -> None:
        """Delete a file if it still has this version."""
        storage.delete_version(self._at(name), version)

    def write(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write a file of any size under a name that nobody else uses."""
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
