"""TIFFs of several pages: the first one, or with `--pages` each as an image of its own."""

from __future__ import annotations

import io

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import tifffile

from catdog import storage
from catdog.errors import ImageRejected
from catdog.inputs import PLAN_SCHEMA, Columns, SourceLimits, list_images, read_images
from catdog.pixels import DecodeLimits, Preprocessing, decode
from catdog.storage import odd_names

LIMITS = SourceLimits()
SIDE = 24
GREYS = [10, 90, 170, 250]
fsspec.register_implementation("catdog", odd_names.OddNameFileSystem, clobber=True)


def stack(*, order="<", big=False, compression=None, greys=GREYS):
    """A TIFF with a page of each grey."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, bigtiff=big, byteorder=order) as writer:
        for grey in greys:
            page = np.full((SIDE, SIDE), grey, np.uint8)
            writer.write(page, compression=compression, contiguous=False)
    return stream.getvalue()


def planned(*inputs, pages=True):
    batches = list_images([str(each) for each in inputs], LIMITS, Columns(pages=pages))
    return pa.Table.from_batches(batches, PLAN_SCHEMA)


def greys(table):
    """What each image shows, or why it is rejected."""
    shown = []
    for data in read_images(table, LIMITS, 2):
        try:
            if isinstance(data, ImageRejected):
                raise data
            shown.append(round(decode(data, Preprocessing(4, 4), DecodeLimits()).pixels.mean()))
        except ImageRejected as rejected:
            shown.append(rejected.code.value)
    return shown


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_each_page(tmp_path, order, big, compression):
    """Pages are images in their order, of one name; without the flag the first one alone."""
    (tmp_path / "cat").mkdir()
    path = tmp_path / "cat" / "s.TIF"
    path.write_bytes(stack(order=order, big=big, compression=compression))
    (tmp_path / "cat" / "t.tiff").write_bytes(stack(greys=[50]))
    table = planned(tmp_path)
    assert greys(table) == [*GREYS, 50]
    assert table["name"].to_pylist() == ["cat/s.TIF"] * 4 + ["cat/t.tiff"]
    assert set(table["label"].to_pylist()) == {"cat"}
    assert len(set(table["uri"].to_pylist())) == 5
    assert greys(planned(tmp_path, pages=False)) == [GREYS[0], 50]


@pytest.mark.parametrize("name", ["s.tif", "o::dd%20.tif"])
def test_its_uri_opens_it(tmp_path, name):
    """With fsspec, as an input, and in a list."""
    (tmp_path / name).write_bytes(stack())
    table = planned(tmp_path / name)
    uris = table["uri"].to_pylist()
    for uri, data in zip(uris, read_images(table, LIMITS, 2), strict=True):
        with fsspec.open(uri) as file:
            assert file.read() == data
    assert greys(planned(*reversed(uris), pages=False)) == GREYS[::-1]
    (tmp_path / "l.txt").write_text("\n".join([*uris, uris[0].replace("page=0", "page=7")]))
    again = planned(tmp_path / "l.txt", pages=False)
    assert greys(again) == [*GREYS, "missing"]
    assert again["uri"].to_pylist()[:4] == uris


def test_smaller_copies_are_no_pages(tmp_path):
    """A pyramid is one picture, at several sizes."""
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        for side, kind in ((64, 0), (32, 1), (16, 1)):
            writer.write(np.full((side, side), 90, np.uint8), subfiletype=kind, contiguous=False)
    assert greys(planned(tmp_path)) == [90]


@pytest.mark.parametrize("keep", [0, 3, 9, 40, 0.3, 0.6, 0.99])
def test_a_cut_stack(tmp_path, keep):
    """It gives the pages that are found, and at least a row."""
    data = stack()
    (tmp_path / "s.tif").write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    table = planned(tmp_path)
    assert table.num_rows >= 1
    assert set(greys(table)) <= {*GREYS, "empty", "truncated", "not-an-image", "unsupported"}
    assert any(isinstance(shown, str) for shown in greys(table))


def test_a_chain_in_a_circle_ends(tmp_path):
    """The last page that leads to the first one: each once, and a row that says so."""
    data = bytearray(stack(greys=[10, 90]))
    found = storage.tiff_pages(lambda offset, length: bytes(data[offset : offset + length]))
    last = found.offsets[-1]
    after = last + 2 + 12 * int.from_bytes(data[last : last + 2], "little")
    data[after : after + 4] = found.offsets[0].to_bytes(4, "little")
    (tmp_path / "s.tif").write_bytes(data)
    assert greys(planned(tmp_path)) == [10, 90, "truncated"]


def test_directories_that_overlap_end():
    """Each of 65,535 entries, one byte behind the other: some are read, not all of them."""
    asked = []

    def read_at(offset, length):
        asked.append(length)
        if offset == 0:
            return b"II*\0" + (8).to_bytes(4, "little") + bytes(8)
        if length == 2:
            return b"\xff\xff"
        return bytes(length - 4) + (len(asked) + 8).to_bytes(4, "little")

    assert not storage.tiff_pages(read_at).whole
    assert sum(asked) < 100 << 20


def test_what_is_no_tiff_has_no_pages(tmp_path):
    """Whatever the name says, it is read as what it is."""
    (tmp_path / "a.tif").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "b.jpg").write_bytes(stack())
    assert greys(planned(tmp_path)) == ["truncated", GREYS[0]]


def test_a_stack_that_changes_after_planning(tmp_path):
    """Its pages are rows `changed`, as any file."""
    path = tmp_path / "s.tif"
    path.write_bytes(stack())
    table = planned(tmp_path)
    path.write_bytes(stack(greys=[1, 2, 3, 4, 5]))
    assert set(greys(table)) == {"changed"}


def test_on_s3(s3):
    """A store's stack is read as a disk's."""
    storage.write_atomic(f"{s3}/s.tif", stack(compression="zlib"))
    assert greys(planned(s3)) == GREYS
