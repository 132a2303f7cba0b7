"""Numbers that a stranger wrote, each against what bounds it: without that check these tests fail."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import (
    PLAN_SCHEMA,
    SourceLimits,
    archives,
    list_images,
    parquet_footer,
    read_images,
    reading,
)
from catdog.inputs.archives import windows
from tests.inputs.pipes import Unseekable

LIMITS = SourceLimits()


def became(path: object, limits: SourceLimits = LIMITS) -> dict[str, bytes | str]:
    """Bytes, or the reason code, by name."""
    table = pa.Table.from_batches(list_images([str(path)], limits), PLAN_SCHEMA)
    results = read_images(table, limits, threads=2)
    found = [each if isinstance(each, bytes) else each.code.value for each in results]
    return dict(zip(table["name"].to_pylist(), found, strict=True))


def a_zip(files: dict[str, bytes], sink: io.RawIOBase | io.BytesIO, method: int = 0) -> bytearray:
    """A zip of these files, written to the sink."""
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return bytearray(sink.data if isinstance(sink, Unseekable) else sink.getvalue())


@pytest.mark.parametrize("size", [3, 9])
def test_a_stored_member_has_one_size(tmp_path, size):
    """The directory says it twice; were the second one believed, a part would pass for the whole."""
    data = a_zip({"a.jpg": b"abcdef"}, io.BytesIO())
    struct.pack_into("<L", data, 14, zlib.crc32(b"abcdef"[:size]))
    struct.pack_into("<L", data, data.rindex(b"PK\1\2") + 24, size)
    (tmp_path / "a.zip").write_bytes(data)
    assert became(tmp_path / "a.zip") == {"a.jpg": "unreadable"}


def test_a_part_of_a_zip_is_one_row(tmp_path):
    """Of a zip in several files no member is looked for: its offsets count from another file."""
    data = a_zip({"a.jpg": b"a"}, io.BytesIO())
    struct.pack_into("<H", data, data.rindex(b"PK\5\6") + 4, 1)
    (tmp_path / "a.zip").write_bytes(data)
    assert became(tmp_path / "a.zip") == {"a.zip": "unsupported"}


def test_where_a_member_should_be_is_one():
    """What stands at the offset of a record begins as a member does."""
    span = bytearray(a_zip({"a.jpg": b"a"}, io.BytesIO()))
    assert archives.extract_zip_member(bytes(span), 1) == b"a"
    span[2:4] = b"\1\2"
    with pytest.raises(ImageRejected, match="no member at its offset"):
        archives.extract_zip_member(bytes(span), 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_checksum_behind_a_streamed_member(tmp_path, method):
    """It is checked where its mark is there; some programs leave the mark away."""
    data = a_zip({"a.jpg": b"a" * 99, "b.jpg": b"b" * 99}, Unseekable(), method)
    mark = data.index(b"PK\7\x08")
    for wrong, expected in ((False, b"a" * 99), (True, "unreadable")):
        data[mark + 4] ^= wrong
        (tmp_path / "a.zip").write_bytes(data)
        assert became(tmp_path / "a.zip") == {"a.jpg": expected, "b.jpg": b"b" * 99}
    data[mark : mark + 4] = b"mark"  # as if the checksum stood here
    (tmp_path / "a.zip").write_bytes(data)
    assert became(tmp_path / "a.zip")["a.jpg"] == b"a" * 99


def test_a_directory_is_read_in_pieces(tmp_path):
    """That of a million members is never in memory as a whole."""
    path = tmp_path / "a.zip"
    path.write_bytes(a_zip({f"{at:0200}.jpg": b"" for at in range(12_000)}, io.BytesIO()))
    largest = 0

    class Measured(windows.FileBytes):
        def read_at(self, offset: int, length: int) -> bytes:
            nonlocal largest
            largest = max(largest, length)
            return super().read_at(offset, length)

    with contextlib.closing(Measured(path.as_uri())) as file:
        assert sum(1 for _ in archives.zip_members(file, 100_000)) == 12_000
    assert largest <= 1 << 20 < 12_000 * 200


def test_members_before_those_that_a_damaged_directory_lists(tmp_path):
    """The order of records is not that of members; what is damaged is found by its own header."""
    data = a_zip({f"{at}.jpg": b"%d" % at for at in range(4)}, io.BytesIO())
    start = data.index(b"PK\1\2")
    end = data.rindex(b"PK\5\6")
    each = (end - start) // 4
    records = [data[at : at + each] for at in range(start, end, each)][::-1]
    records[1][:4] = b"none"
    (tmp_path / "a.zip").write_bytes(data[:start] + b"".join(records) + data[end:])
    found = became(tmp_path / "a.zip")
    assert found == {f"{at}.jpg": b"%d" % at for at in range(4)} | {"a.zip": "unreadable"}


def a_tar(*names: str, kind: int) -> bytearray:
    """A tar of files with their names as content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    return bytearray(stream.getvalue())


def test_a_header_whose_checksum_is_wrong(tmp_path):
    """Damage, and not the end: what comes after it is lost."""
    data = a_tar("0.jpg", "1.jpg", kind=tarfile.USTAR_FORMAT)
    data[1024] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    assert became(tmp_path / "a.tar") == {"0.jpg": b"0.jpg", "a.tar": "unreadable"}


def test_what_stands_where_a_long_name_begins(tmp_path):
    """The beginning of a long name in POSIX's dialect; GNU keeps times in its place."""
    long = "cat/" + "x" * 90 + "/" + "y" * 90 + ".jpg"
    (tmp_path / "a.tar").write_bytes(a_tar(long, kind=tarfile.USTAR_FORMAT))
    assert became(tmp_path / "a.tar") == {long: long.encode()}
    data = a_tar("cat/0.jpg", kind=tarfile.GNU_FORMAT)
    data[345:369] = b"14700000000\x0014700000000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "b.tar").write_bytes(data)
    assert became(tmp_path / "b.tar") == {"cat/0.jpg": b"cat/0.jpg"}


def test_what_expands_within_its_limit_is_read(tmp_path, monkeypatch):
    """Beyond the size that harms nobody, the bytes read so far permit as many times more."""
    monkeypatch.setattr(windows, "BOMB_FLOOR_BYTES", 1 << 10)
    data = a_tar("0.jpg", kind=tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    assert len(data) > 1 << 10
    assert became(tmp_path / "a.tar.gz") == {"0.jpg": b"0.jpg"}
    limits = SourceLimits(max_expansion=2)
    assert became(tmp_path / "a.tar.gz", limits) == {"a.tar.gz": "too-large"}


def test_a_quote_that_another_one_closes(tmp_path):
    """The lines between are no path: one row names them, and what follows is read."""
    (tmp_path / "1.jpg").write_bytes(b"1")
    (tmp_path / "t.csv").write_text('uri,label\n"0.jpg,cat\nx.jpg,cat\n0.jpg",cat\n1.jpg,cat\n')
    assert became(tmp_path / "t.csv") == {"t.csv": "unreadable", "1.jpg": b"1"}


@pytest.mark.parametrize("left", [0, 7])
def test_a_page_ends_within_its_file(left):
    """Arrow takes the memory that a page claims before it reads one."""
    header = b"\x15\x00\x15\x14\x15\x14\x00"  # a data page of ten bytes, and ten when expanded
    file = io.BytesIO(header + bytes(10))
    assert [*parquet_footer.pages(file, 0, len(header) + 10)] == [parquet_footer.Page(10, 10)]
    file.truncate(len(header) + left)
    with pytest.raises(parquet_footer.DamagedError, match="longer than its file"):
        [*parquet_footer.pages(file, 0, len(header) + 10)]


def test_a_file_in_a_store_that_a_list_names(s3, tmp_path, monkeypatch):
    """Its size is known when it is read: a small one is whole, one above the limit is not taken."""
    monkeypatch.setattr(reading, "_UNKNOWN_BYTES", 10)
    for size in (5, 10, 11, 50, 51):
        storage.write_atomic(f"{s3}/{size}.jpg", os.urandom(1) * size)
    names = [f"{s3}/{size}.jpg" for size in (5, 10, 11, 50, 51)]
    (tmp_path / "l.txt").write_text("\n".join(names))
    table = pa.Table.from_batches(list_images([f"{tmp_path}/l.txt"], LIMITS), PLAN_SCHEMA)
    *sound, large = read_images(table, SourceLimits(max_bytes=50), threads=2)
    assert [len(each) for each in sound] == [5, 10, 11, 50]
    assert large.code == ErrorCode.TOO_LARGE


@pytest.mark.parametrize("start", [b"\0a\0", b"a\0", b"\0", b"a", b"\0\0\0"])
def test_a_list_of_a_few_bytes(tmp_path, start):
    """Its encoding is told by four bytes, where there are so many."""
    (tmp_path / "l.txt").write_bytes(start)
    assert set(became(tmp_path / "l.txt").values()) <= {"missing", "unreadable"}


def test_a_checksum_that_stands_before_and_behind(tmp_path):
    """The bit of streamed members counts only where the header lacks the size, or the checksum."""
    data = a_zip({"a.jpg": b"abcdef"}, io.BytesIO())
    data[6] |= 8
    (tmp_path / "a.zip").write_bytes(data)
    assert became(tmp_path / "a.zip") == {"a.jpg": b"abcdef"}
    data[35] ^= 1  # the first letter
    (tmp_path / "a.zip").write_bytes(data)
    assert became(tmp_path / "a.zip") == {"a.jpg": "unreadable"}
    data = a_zip({"a.jpg": b"abcdef"}, Unseekable())
    data[14] ^= 1  # a checksum beside no size
    (tmp_path / "a.zip").write_bytes(data)
    assert became(tmp_path / "a.zip") == {"a.jpg": b"abcdef"}


def test_a_row_that_ends_before_its_label(tmp_path):
    """It has none, and the next row has its own."""
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "t.csv").write_text("uri,note,label\n1.jpg\n2.jpg,a,cat\n")
    batches = list_images([f"{tmp_path}/t.csv"], LIMITS)
    found = pa.Table.from_batches(batches, PLAN_SCHEMA)
    assert found["label"].to_pylist() == [None, "cat"]


@pytest.mark.parametrize(("floor", "ratio", "read"), [(1 << 30, 1, 1), (10, 500, 1), (10, 1, 0)])
@pytest.mark.parametrize("named", ["table", "beside"])
def test_a_table_may_expand_to_a_floor_or_many_times(
    tmp_path, monkeypatch, floor, ratio, read, named
):
    """Little harms nobody, whatever the ratio; much is a bomb only where the file is small."""
    monkeypatch.setattr(archives, "BOMB_FLOOR_BYTES", floor)
    names = pa.array(["./" * 100 + "0.jpg"] * 200)
    labels = pa.array(["cat"] * 200)
    (tmp_path / "0.jpg").write_bytes(b"x")
    limits = SourceLimits(max_expansion=ratio)
    column, path = ("uri", "t.parquet") if named == "table" else ("file_name", "metadata.parquet")
    pq.write_table(pa.table({column: names, "label": labels}), tmp_path / path)
    given = tmp_path / path if named == "table" else tmp_path
    with (
        contextlib.nullcontext()
        if read
        else pytest.raises(UserInputError, match="expand to many times")
    ):
        found = pa.Table.from_batches(list_images([str(given)], limits), PLAN_SCHEMA)
        assert found["label"].to_pylist() == ["cat"]


def test_a_large_local_file_waits_on_the_disk(tmp_path, monkeypatch):
    """One whose size was not known, or another one, is read when its turn comes, and then whole."""
    monkeypatch.setattr(reading, "_UNKNOWN_BYTES", 10)
    for size, waits in ((10, False), (11, True)):
        path = tmp_path / f"{size}.jpg"
        path.write_bytes(b"x" * size)
        found = reading._read_local_file(reading._Span(path.as_uri(), 0, 0, None, None), LIMITS)
        assert callable(found) == waits
        assert (found() if callable(found) else found) == b"x" * size


def in_store(*members: tuple[int, int]) -> pa.Table:
    """Entries of a tar in a store that nobody asks: offset and length of each."""
    rows = [
        {"uri": f"tar://{at}::s3://b/a.tar", "name": f"{at}", "container": "s3://b/a.tar"}
        | {"offset": at, "length": length, "size": length, "stamp": "1", "codec": "tar"}
        for at, length in members
    ]
    return pa.Table.from_pylist(rows, PLAN_SCHEMA)


@pytest.mark.parametrize(
    ("members", "requests"),
    [
        ([(at * 512, 100) for at in range(512)], 1),
        ([(at * 512, 100) for at in range(513)], 2),
        ([(0, 4 << 20), (4 << 20, 4 << 20)], 1),
        ([(0, 4 << 20), (4 << 20, (4 << 20) + 1)], 2),
        ([(0, 100), (100 + (256 << 10), 100)], 1),
        ([(0, 100), (101 + (256 << 10), 100)], 2),
        ([(512, 100), (0, 100)], 2),
    ],
    ids=["512", "513", "8 MiB", "more", "gap", "wider", "back"],
)
def test_a_request_to_a_store_is_bounded(members, requests):
    """Neighbours are read together: so many, so many bytes, over so wide a gap."""
    assert sum(1 for _ in reading._units(in_store(*members), LIMITS)) == requests


def test_many_small_images_may_share_a_large_page(tmp_path):
    """What a page expands to is held against its bytes, and not against the largest image alone."""
    images = [os.urandom(1000) for _ in range(100)]
    pq.write_table(pa.table({"bytes": images}), tmp_path / "t.parquet", use_dictionary=False)
    found = became(tmp_path / "t.parquet", SourceLimits(max_bytes=1000))
    assert list(found.values()) == images
