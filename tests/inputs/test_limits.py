"""Numbers that strangers wrote, against the limits on what is read: of tars, tables and labels."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tarfile
import time
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz import thrift
from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import (
    PLAN_SCHEMA,
    Columns,
    SourceLimits,
    archives,
    list_images,
    parquet_footer,
    parquet_rows,
    read_images,
)
from catdog.inputs.archives import windows

LIMITS = SourceLimits()


def planned(path: object, columns: Columns | None = None) -> pa.Table:
    return pa.Table.from_batches(list_images([str(path)], LIMITS, columns), PLAN_SCHEMA)


def contents(table: pa.Table, limits: SourceLimits = LIMITS) -> list[bytes | str]:
    """What each row gives: its bytes, or the reason code."""
    results = read_images(table, limits, threads=2)
    return [result if isinstance(result, bytes) else result.code.value for result in results]


def tar_of(*names: str, size: int = 2000) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return sink.getvalue()


@pytest.mark.parametrize("left", [0, 100, 511])
def test_a_tar_cut_in_the_map_of_a_sparse_file(tmp_path, left):
    """The blocks that go on with the map of a GNU sparse file are there, or the archive is cut."""
    info = tarfile.TarInfo("a.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # one more block follows
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of("0.jpg")[: 5 * 512] + header + bytes(left))
    assert planned(path)["error"].to_pylist() == [None, "truncated"]


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz"])
def test_an_archive_that_became_shorter_unseen(tmp_path, kind):
    """Of the same time and size to the system, as after a disk's fault: what is gone is truncated."""
    path = tmp_path / kind
    pack = gzip.compress if kind.endswith("gz") else bytes
    path.write_bytes(pack(tar_of("0.jpg", "1.jpg")))
    table = planned(path)
    path.write_bytes(pack(tar_of("0.jpg", "1.jpg")[: 6 * 512 + 600]))
    at = table.schema.get_field_index("stamp")
    stamps = pa.array([storage.stamp_of_status(path.stat())] * table.num_rows)
    assert contents(table.set_column(at, "stamp", stamps)) == [bytes(2000), "truncated"]


def test_a_packed_member_larger_than_an_image_may_be(tmp_path):
    """Whatever it claims to expand to, no more than the limit is read of it."""
    packed = zipfile.ZIP_DEFLATED
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", packed) as z:
        z.writestr("a.jpg", b"a" * 100)
    data = sink.getvalue()
    at, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    gap = 1 << 20
    record, finish = bytearray(data[at:end]), bytearray(data[end:])
    record[20:24] = struct.pack("<L", gap)
    finish[16:20] = struct.pack("<L", at + gap)
    path = tmp_path / "a.zip"
    path.write_bytes(data[:at] + bytes(gap) + record + finish)
    table = planned(path)
    assert contents(table) == [b"a" * 100]
    assert contents(table, SourceLimits(max_bytes=gap // 2)) == ["too-large"]


@pytest.mark.parametrize("column", [pa.binary(), pa.large_binary(), pa.binary(1000)])
def test_an_image_of_a_table_is_bounded(tmp_path, column):
    """One above the limit costs its row."""
    path = tmp_path / "a.parquet"
    images = pa.array([b"a" * 1000, b"b" * (1000 if column == pa.binary(1000) else 1)], column)
    pq.write_table(pa.table({"bytes": images}), path)
    assert contents(planned(path)) == images.to_pylist()
    small = [each if len(each) < 1000 else "too-large" for each in images.to_pylist()]
    assert contents(planned(path), SourceLimits(max_bytes=999)) == small


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_label_is_not_read_beyond_a_mebibyte(tmp_path, kind):
    """A member that holds a label is asked for its size first."""
    path = tmp_path / f"a.{kind}"
    files = {"0.jpg": b"x", "0.cls": b"cat" + b" " * (1 << 20), "1.jpg": b"x", "1.cls": b"dog"}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as z:
            for name, data in files.items():
                z.writestr(name, data)
    else:
        with tarfile.open(path, "w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    rows = planned(path, Columns(label_from="cls")).to_pylist()
    assert [row["label"] for row in rows] == [None, "dog"]
    assert "1,048,579 bytes, more than 1,048,576" in rows[0]["error_detail"]


def repeated(value: str, rows: int) -> pa.DictionaryArray:
    """One value in all rows, which Parquet stores once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


@pytest.mark.parametrize("where", ["uri", "label", "path"])
def test_a_table_that_expands_without_end_is_refused(tmp_path, monkeypatch, where):
    """A value that stands once in a small file, and in each of its rows."""
    monkeypatch.setattr(archives, "BOMB_FLOOR_BYTES", 64 << 20)
    monkeypatch.setattr(parquet_rows, "_MOST_BATCH_BYTES", 8 << 20)
    rows, value = 20_000, "a" * (1 << 20)
    columns = {"uri": pa.array([f"{row}.jpg" for row in range(rows)])}
    if where == "path":
        paths = repeated(value, rows)
        columns = {"image": pa.StructArray.from_arrays([pa.nulls(rows), paths], ["bytes", "path"])}
    else:
        columns[where] = repeated(value, rows)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(UserInputError, match="expand to many times the size of the file"):
        planned(path)


def test_a_table_of_more_rows_than_its_bytes_can_hold_is_refused(tmp_path):
    """One name for each of a million rows takes Parquet a hundred bytes."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uri": repeated("a.jpg", 1_000_000)}), path)
    with pytest.raises(UserInputError, match="claims 1,000,000 rows, more than 200 a byte"):
        planned(path)


def test_a_table_of_more_images_than_its_bytes_or_the_limit(tmp_path):
    """Each image has a byte or more; and members of tables are counted as those of archives."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"bytes": [b"x"] * 1_000_000}), path)
    with pytest.raises(UserInputError, match="claims 1,000,000 images; that is more than it has"):
        planned(path)
    pq.write_table(pa.table({"bytes": [b"%d" % at for at in range(9)]}), path)
    few = SourceLimits(max_archive_members=8)
    with pytest.raises(UserInputError, match="than --max-archive-members 8"):
        list(list_images([str(path)], few))


@pytest.mark.parametrize("number", [1, 2, 1 << 40, -1])
def test_a_number_of_no_class_is_text(tmp_path, number):
    """Where `datasets` left names for fewer classes."""
    told = b'{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    table = pa.table({"bytes": [b"x", b"y"], "label": [0, number]})
    path = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata({b"huggingface": told}), path)
    assert planned(path)["label"].to_pylist() == ["cat", "dog" if number == 1 else str(number)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_line_without_end_takes_no_memory(tmp_path, name):
    """It is read a piece at a time, and costs its row."""
    data = b"0.jpg\n" + b"x" * (32 << 20) + b"\n1.jpg\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    tracemalloc.start()
    try:
        assert planned(path)["error"].to_pylist() == [None, "unreadable", None]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_list_that_expands_without_end_ends(tmp_path, monkeypatch):
    """Compressed text is bounded as archives are."""
    monkeypatch.setattr(windows, "BOMB_FLOOR_BYTES", 1 << 20)
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"0.jpg\n" + bytes(30 << 20)))
    assert planned(path)["error"].to_pylist() == [None, "too-large"]


def test_images_that_wait_are_bounded(tmp_path):
    """Whoever takes long over the first image finds no more than the limit read ahead."""
    for at in range(48):
        (tmp_path / f"{at:02}.jpg").write_bytes(bytes(1 << 20))
    table = planned(tmp_path)
    tracemalloc.start()
    try:
        images = read_images(table, SourceLimits(bytes_in_flight=4 << 20), threads=16)
        next(images)
        time.sleep(0.5)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        images.close()
    finally:
        tracemalloc.stop()


def chain(directories: list[int], *, cut: int = 0) -> bytes:
    """A TIFF of directories with so many entries each, without the last bytes."""
    data = b"II*\0" + struct.pack("<L", 8)
    for at, count in enumerate(directories):
        after = len(data) + 2 + 12 * count + 4
        last = at == len(directories) - 1
        data += (
            struct.pack("<H", count) + bytes(12 * count) + struct.pack("<L", 0 if last else after)
        )
    return data[: len(data) - cut]


@pytest.mark.parametrize(
    ("data", "pages", "whole"),
    [
        (chain([1, 1, 1]), 3, True),
        (chain([1, 0, 1]), 1, False),
        (chain([1, 1, 1], cut=1), 2, False),
        (chain([1, 1, 1], cut=4), 2, False),
        (chain([1] * 12), 10, False),
        (chain([1])[:-4] + struct.pack("<L", 8), 1, False),
        (chain([1])[:-4] + struct.pack("<L", 1 << 31), 1, False),
    ],
    ids=["sound", "empty", "cut", "without end", "long", "circle", "beyond"],
)
def test_chains_of_pages(monkeypatch, data, pages, whole):
    """Their offsets and counts lead nowhere but to pages that are there, and to an end."""
    monkeypatch.setattr(sys.modules["catdog.storage.tiff_pages"], "MOST_PAGES", 10)
    found = storage.tiff_pages(lambda offset, length: data[offset : offset + length])
    assert (len(found.offsets), found.whole) == (pages, whole)


def test_numbers_of_pages_have_six_digits():
    """What is longer names no page."""
    assert storage.page_number("page=100000", "a.tif") == 100_000
    assert storage.page_number("page=1000000", "a.tif") is None
    assert storage.page_number("page=" + "9" * 5000, "a.tif") is None


@pytest.mark.parametrize("where", ["uri", "label"])
def test_a_value_too_long_costs_its_row(tmp_path, where):
    """In a Parquet table as in one of text."""
    columns = {"uri": ["0.jpg", "1.jpg"], "label": ["cat", "dog"]}
    columns[where][0] = "x" * 70_000
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    rows = planned(path).to_pylist()
    assert [row["error"] for row in rows] == ["unreadable", None]
    assert "in row 0 of the table has more than 65,536 bytes" in rows[0]["error_detail"]


def test_a_page_larger_than_any_writer_makes_is_refused(tmp_path, monkeypatch):
    """By its own header, before Arrow takes the memory; the footer may claim less."""
    monkeypatch.setattr(parquet_rows, "_MOST_PAGE_BYTES", 1000)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uri": ["a" * 100] * 9, "n": ["b" * 5000] * 9}), path)
    assert planned(path).num_rows == 1
    pq.write_table(pa.table({"uri": [f"{at:0500}" for at in range(9)]}), path)
    with pytest.raises(UserInputError, match=r"a page of its column uri claims 4,\d\d\d bytes"):
        planned(path)


def test_a_dictionary_of_images_is_not_multiplied(tmp_path):
    """One value that stands in each row takes the memory of few, not of a batch of rows."""
    path = tmp_path / "a.parquet"
    size = 20 << 20
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 64), pa.array([bytes(size)]))
    pq.write_table(pa.table({"bytes": images}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    before = pa.total_allocated_bytes()
    results = read_images(planned(path), SourceLimits(max_bytes=size), threads=1)
    assert len(next(results)) == size
    assert pa.total_allocated_bytes() - before < 6 * size
    results.close()


def test_a_page_of_images_that_expands_without_end_costs_its_rows(tmp_path):
    """By its own header, before Arrow takes the memory; other row groups are read."""
    path = tmp_path / "a.parquet"
    images = [b"a", b"b", bytes(3 << 20), b"c", b"d"]
    pq.write_table(
        pa.table({"bytes": images, "label": list("abcde")}),
        path,
        row_group_size=2,
        compression="zstd",
        use_dictionary=False,
    )
    small = SourceLimits(max_bytes=1 << 20)
    assert contents(planned(path), small) == [b"a", b"b", "too-large", "too-large", b"d"]
    assert contents(planned(path)) == images


@pytest.mark.parametrize("column", ["bytes", "uri"])
def test_a_page_that_is_longer_than_its_file(tmp_path, column):
    """Arrow would take the memory for it before it looks for its bytes."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({column: [b"image"]}), path, compression="none")
    data = path.read_bytes()
    stored = thrift.numbers(data, 4)[2]  # behind its type and what it expands to
    path.write_bytes(data[: stored.start] + b"\xfe\xff\xff\xff\x0f" + data[stored.end :])
    if column == "bytes":
        assert contents(planned(path)) == ["unreadable"]
    else:
        with pytest.raises(UserInputError, match="damaged"):
            planned(path)


def test_a_page_that_is_nowhere():
    """Where a footer leads outside of its file, nothing is read."""
    with pytest.raises(parquet_footer.DamagedError):
        next(parquet_footer.pages(io.BytesIO(b"PAR1"), 1 << 40, 2 << 40))


def test_a_line_too_long_of_old_line_ends_costs_its_row(tmp_path):
    """And not those behind it."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"uri\r0.jpg\r" + b"x" * 200_000 + b"\r1.jpg\r")
    rows = planned(path).to_pylist()
    assert [row["error"] for row in rows] == [None, "unreadable", None]
