"""Decoding as a stage of a Ray Data job: plan entries in, pixels out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from catdog import inputs
from catdog.pixels.decoder import Decoder
from catdog.pixels.shared_memory import OUTCOME_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from catdog.inputs import SourceLimits
    from catdog.pixels.preprocessing import DecodeLimits, Preprocessing

_BATCH_IMAGES = 64
COST_COLUMNS = ("started_at", "read_s", "decode_s", "bytes_read")


class DecodeEntries:
    """Decodes tables of plan entries; one row out for every row in.

    The rows have the entries' columns named by `keep`, those of `OUTCOME_SCHEMA`, `pixels` (H*W*3
    bytes, zeros if rejected) and `COST_COLUMNS`: the cost of the whole table, repeated in each row.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        decode_limits: DecodeLimits,
        source_limits: SourceLimits,
        keep: Sequence[str],
    ) -> None:
        self._shape = (preprocessing.height, preprocessing.width, 3)
        self._keep = list(keep)
        self._decoder = Decoder(preprocessing, decode_limits, source_limits, _BATCH_IMAGES)

    def __call__(self, entries: pa.Table) -> pa.Table:
        """Decode a table with the columns of `PLAN_SCHEMA` and those to keep."""
        started_at = time.time()
        pixels = np.zeros((entries.num_rows, *self._shape), np.uint8)
        outcomes = []
        read_s = decode_s = 0.0
        bytes_read = 0
        for batch in self._decoder.decode(entries.select(inputs.PLAN_SCHEMA.names)):
            pixels[batch.rows] = batch.pixels
            outcomes.append(batch.outcomes)
            read_s += batch.read_s
            decode_s += batch.decode_s
            bytes_read += batch.bytes_read
        decoded = pa.Table.from_batches(outcomes, OUTCOME_SCHEMA)
        for name in self._keep:
            decoded = decoded.append_column(name, entries[name])
        costs = (started_at, read_s, decode_s, bytes_read)
        for name, cost in zip(COST_COLUMNS, costs, strict=True):
            decoded = decoded.append_column(name, pa.array([cost] * entries.num_rows))
        return decoded.append_column("pixels", as_binary(pixels))


def as_binary(pixels: NDArray[np.uint8]) -> pa.Array:
    """Pixels (n, H, W, 3) as n fixed-size binary values, without a copy."""
    width = int(np.prod(pixels.shape[1:]))
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))]
    )


def as_pixels(column: pa.ChunkedArray, preprocessing_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The column `pixels` as an array (n, H, W, 3), in place where it is one chunk."""
    if column.num_chunks == 0:
        return np.empty((0, *preprocessing_shape), np.uint8)
    # `combine_chunks` copies also where there is a single one.
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    size = int(np.prod(preprocessing_shape))
    values = np.frombuffer(array.buffers()[1], np.uint8, len(array) * size, array.offset * size)
    return values.reshape(-1, *preprocessing_shape)
