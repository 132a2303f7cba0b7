"""What columns hold, as one number: of the values, however Arrow keeps them in memory."""

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
    """128 bits in hexadecimal of the values of these columns.

    Of strings the lengths and the bytes count, of integers the numbers: slices, chunks and padding
    do not. Null is unlike the empty string; of integers, which are none below zero here, it is -1.
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
