"""A digest of columns' values, whatever their layout in memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEX_DIGITS = 32  # 128 bits


def digest(rows: pa.Table, columns: Sequence[str]) -> str:
    """A 128-bit digest, in hexadecimal, of the values of these columns.

    Strings count by length and bytes, integers by value; slices, chunks and padding do not count.
    Null differs from the empty string, and counts as -1 among integers, which are never negative here.
    """
    sha = hashlib.sha256(rows.num_rows.to_bytes(8, "little"))
    for name in columns:
        column = rows[name]
        if pa.types.is_integer(column.type):
            sha.update(_filled(column, -1).to_numpy().astype("<i8").tobytes())
            continue
        lengths = _filled(pc.binary_length(column), -1).to_numpy()
        sha.update(lengths.astype("<i4").tobytes())
        for chunk in _filled(column, "").chunks:
            sha.update(_bytes(chunk))
    return sha.hexdigest()[:_HEX_DIGITS]


def _filled(column: pa.ChunkedArray, value: Any) -> pa.ChunkedArray:
    return column.fill_null(value) if column.null_count else column


def _bytes(strings: pa.Array[Any]) -> memoryview:
    """All bytes of an array of strings without nulls, one after the other."""
    _, offsets, data = strings.buffers()
    if data is None or not len(strings):
        return memoryview(b"")
    wide = pa.types.is_large_string(strings.type)
    kind, width = (np.int64, 8) if wide else (np.int32, 4)
    ends = np.frombuffer(offsets, kind, len(strings) + 1, strings.offset * width)
    return memoryview(data)[int(ends[0]) : int(ends[-1])]
