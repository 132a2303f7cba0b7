"""What the Ray Data stage hands over; nothing here starts Ray."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catdog.pixels import as_pixels

SHAPE = (2, 3, 3)


def column(chunks: list[np.ndarray]) -> pa.ChunkedArray:
    """Pixels (n, H, W, 3) of each chunk as binary values of fixed size."""
    kind = pa.binary(int(np.prod(SHAPE)))
    arrays = [pa.array([each.tobytes() for each in chunk], kind) for chunk in chunks]
    return pa.chunked_array(arrays, kind)


@pytest.mark.parametrize("sizes", [(), (0,), (4,), (1, 3), (0, 2, 5)])
def test_pixels_are_those_of_the_column(sizes):
    """However many chunks a column has, the array holds its images in order."""
    noise = np.random.default_rng(1)
    chunks = [noise.integers(0, 255, (size, *SHAPE), np.uint8) for size in sizes]
    expected = np.concatenate(chunks) if chunks else np.empty((0, *SHAPE), np.uint8)
    assert np.array_equal(as_pixels(column(chunks), SHAPE), expected)


def test_a_slice_of_one_chunk_is_not_copied():
    """The array lies in the column's own memory, also of a slice."""
    pixels = np.arange(5 * 18, dtype=np.uint8).reshape(5, *SHAPE)
    whole = column([pixels])
    part = as_pixels(whole.slice(1, 3), SHAPE)
    assert np.array_equal(part, pixels[1:4])
    buffer = whole.chunk(0).buffers()[1]
    assert part.__array_interface__["data"][0] == buffer.address + 18
