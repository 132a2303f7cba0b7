"""The list of a run's images, in a temporary file: of millions only numbers stay in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from catdog import scratch
from catdog.inputs import PLAN_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray


class Entries:
    """Rows of `PLAN_SCHEMA`, written once and read a batch at a time.

    The file has no name any more, and is gone with this object.

    Args:
        batches: the rows.
        seen: is given each batch as it is written.

    Attributes:
        num_rows: how many there are.
    """

    def __init__(
        self, batches: Iterable[pa.RecordBatch], seen: Callable[[pa.RecordBatch], None]
    ) -> None:
        self.num_rows = 0
        self._starts: list[int] = []
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with scratch.temporary_folder() as folder:
            path = str(folder / "entries.arrow")
            with (
                pa.OSFile(path, "wb") as sink,
                pa.ipc.new_file(sink, PLAN_SCHEMA, options=options) as file,
            ):
                for batch in batches:
                    self._starts.append(self.num_rows)
                    self.num_rows += batch.num_rows
                    file.write_batch(batch)
                    seen(batch)
            self._file = pa.ipc.open_file(pa.OSFile(path))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in order."""
        for number in range(len(self._starts)):
            yield self._file.get_batch(number)

    def values(self, rows: NDArray[np.int64], column: str) -> list[str]:
        """The strings of some rows; each part of the file is read once."""
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        found = [""] * len(rows)
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            taken = self._file.get_batch(number)[column].take(
                pa.array(rows[here] - self._starts[number])
            )
            for place, value in zip(here.tolist(), taken.to_pylist(), strict=True):
                found[place] = value
        return found
