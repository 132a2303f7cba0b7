"""Zips whose numbers are wrong, in the directory, its end and the members' own headers."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile

import fsspec
import pyarrow as pa
import pytest

from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, archives, list_images, read_images
from catdog.storage import odd_names
from tests.inputs.pipes import Unseekable

LIMITS = SourceLimits()
# Installed, the entry point does that; a source tree in front of another installation does not.
fsspec.register_implementation("catdog", odd_names.OddNameFileSystem, clobber=True)


def planned(path: object, limits: SourceLimits = LIMITS) -> pa.Table:
    return pa.Table.from_batches(list_images([str(path)], limits), PLAN_SCHEMA)


def contents(table: pa.Table) -> list[bytes | str]:
    """What each row gives: its bytes, or the reason code."""
    results = read_images(table, LIMITS, threads=2)
    return [result if isinstance(result, bytes) else result.code.value for result in results]


def test_a_name_does_not_reach_out_of_the_directory(tmp_path):
    """A record of a zip's directory that claims more than is there is damage."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a.jpg", b"a")
        z.writestr("b.jpg", b"b")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 28 : at + 30] = (5000).to_bytes(2, "little")
    path.write_bytes(data)
    assert contents(planned(path)) == [b"a", b"b", "unreadable"]


ZIPPED = [(f"{at}.jpg", b"%d" % at * 1000) for at in range(6)]


def a_zip(*, streamed: bool = False, in_front: bytes = b"") -> bytes:
    """Of `ZIPPED`, stored and deflated in turn."""
    sink = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(sink, "w") as z:
        for at, (name, data) in enumerate(ZIPPED):
            # What is stored through a pipe has its end in the directory alone.
            z.writestr(name, data, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[at % 2])
    return in_front + (sink.data if isinstance(sink, Unseekable) else sink.getvalue())


def record_of(data: bytes, at: int) -> int:
    """Where a member's record stands in the directory."""
    return data.rindex(ZIPPED[at][0].encode()) - 46


@pytest.mark.parametrize("damaged", range(6))
@pytest.mark.parametrize("field", [0, 28, 30], ids=["mark", "name", "extra"])
def test_a_damaged_directory_costs_no_sound_member(tmp_path, damaged, field):
    """What a zip's directory does not tell any more, the members' own headers do; a row says so."""
    data = bytearray(a_zip())
    at = record_of(data, damaged) + field
    data[at : at + 2] = b"\xff\xff"
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    table = planned(path)
    assert contents(table) == [*(data for _, data in ZIPPED), "unreadable"]
    for uri, (_, content) in zip(table["uri"].to_pylist(), ZIPPED, strict=False):
        with fsspec.open(uri) as file:
            assert file.read() == content
    assert "directory of the zip is damaged" in table["error_detail"].to_pylist()[-1]


@pytest.mark.parametrize(
    ("streamed", "in_front", "damaged", "lost"),
    [
        (True, b"", 3, 3),  # their sizes stand behind their data
        (True, b"", 5, 1),
        (True, b"", 0, 6),
        (False, b"#!program" * 9, 3, 3),  # where the first one begins is not known
        (False, b"", 3, 0),
    ],
)
def test_what_a_damaged_directory_costs(tmp_path, streamed, in_front, damaged, lost):
    """Members before the damage in any case; those behind it unless nothing else tells their size."""
    data = bytearray(a_zip(streamed=streamed, in_front=in_front))
    data[record_of(data, damaged)] ^= 1
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    kept = [data for _, data in ZIPPED][: 6 - lost]
    assert contents(planned(path)) == [*kept, "unreadable"]


@pytest.mark.parametrize("liar", range(5))
def test_who_claims_the_bytes_of_others_is_rejected_alone(tmp_path, liar):
    """Of a member that covers others by what the directory says, those others are sound."""
    data = bytearray(a_zip())
    at = record_of(data, liar) + 20
    data[at : at + 8] = struct.pack("<2L", 2000, 2000)
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    expected = [data for _, data in ZIPPED]
    read = contents(planned(path))
    assert read.pop(liar) in {"too-large", "truncated", "unreadable"}
    expected.pop(liar)
    assert read == expected


@pytest.mark.parametrize("field", [12, 16], ids=["length", "start"])
def test_a_directory_that_is_said_to_be_elsewhere(tmp_path, field):
    """The end of the zip is damaged: all members are found by their own headers."""
    data = bytearray(a_zip())
    at = data.rindex(b"PK\5\6") + field
    data[at : at + 4] = b"\xff\xff\xff\x0f"
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    assert contents(planned(path)) == [*(d for _, d in ZIPPED), "unreadable"]


def test_members_by_headers_count_for_the_limit(tmp_path):
    """Those before the damage of a directory and those behind it together."""
    data = bytearray(a_zip())
    data[record_of(data, 2)] ^= 1
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    table = planned(path, limits=SourceLimits(max_archive_members=4))
    assert table["error"].to_pylist() == [None] * 4 + ["too-large"]


def test_a_limit_is_met_before_the_whole_directory_is_read(tmp_path):
    """Members beyond the limit cost neither memory nor a look at their records."""
    data = bytearray(a_zip())
    data[record_of(data, 5)] ^= 1  # which is not reached
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    table = planned(path, limits=SourceLimits(max_archive_members=5))
    assert table["error"].to_pylist() == [None] * 5 + ["too-large"]


def test_a_limit_holds_without_a_directory(tmp_path):
    """Members by their own headers are counted too."""
    data = a_zip()
    path = tmp_path / "a.zip"
    path.write_bytes(data[: data.index(b"PK\1\2")])
    table = planned(path, limits=SourceLimits(max_archive_members=4))
    assert table["error"].to_pylist() == [None] * 4 + ["too-large"]


def test_a_member_smaller_than_it_claims_is_damage():
    """What a deflated member lacks of its size is not for more bytes to bring."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a.jpg", bytes(100))
    with pytest.raises(ImageRejected, match="smaller than the 101 bytes") as caught:
        archives.extract_zip_member(stream.getvalue(), 101)
    assert caught.value.code == ErrorCode.UNREADABLE


@pytest.mark.parametrize("length", [0, 3, 29])
def test_a_span_too_short_for_a_header_is_damage(length):
    """However few bytes a plan gives of a member."""
    with pytest.raises(ImageRejected, match="no member at its offset"):
        archives.extract_zip_member(b"PK\3\4".ljust(length, b"\0")[:length], 10)


@pytest.mark.parametrize("comment", [b"PK\5\6", b"PK\5\6" + b"\xff" * 17, b"PK\5\6" + b"\xff" * 18])
def test_an_end_that_does_not_fit_is_none(tmp_path, comment):
    """A mark in the comment that nothing, too little or too long a comment follows is passed over."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a.jpg", b"a")
        z.comment = comment
    assert contents(planned(path)) == [b"a"]


@pytest.mark.parametrize("extra", [b"\1", b"\1\0\7", struct.pack("<2H", 1, 7) + b"\0" * 7])
def test_an_extra_field_cut_short_tells_nothing(tmp_path, extra):
    """Where a wide number is cut, the directory is damaged there; the member's header tells."""
    data = a_zip()
    at = record_of(data, 5)
    end = data.rindex(b"PK\5\6")
    record = bytearray(data[at:end])
    record[24:28] = b"\xff" * 4  # the size: see the extra field
    record[30:32] = struct.pack("<H", len(extra))
    finish = bytearray(data[end:])
    finish[12:16] = struct.pack("<L", len(data[:end]) + len(extra) - data.index(b"PK\1\2"))
    path = tmp_path / "a.zip"
    path.write_bytes(data[:at] + record + extra + finish)
    assert contents(planned(path)) == [*(data for _, data in ZIPPED), "unreadable"]


def test_a_directory_cut_in_a_record_is_damaged(tmp_path):
    """Its end claims a length that the last record goes beyond."""
    data = bytearray(a_zip())
    end = data.rindex(b"PK\5\6")
    start = data.index(b"PK\1\2")
    cut = record_of(data, 5) + 20
    data[end + 12 : end + 16] = struct.pack("<L", cut - start)
    path = tmp_path / "a.zip"
    path.write_bytes(data[:cut] + data[end:])
    assert contents(planned(path)) == [*(data for _, data in ZIPPED), "unreadable"]


@pytest.mark.parametrize("rest", [b"PK\3\4", b"PK\3\4".ljust(29, b"\0")])
def test_a_last_header_cut_short_is_none(tmp_path, rest):
    """Where the archive ends within a member's header, those before it are read."""
    data = a_zip()
    path = tmp_path / "a.zip"
    path.write_bytes(data[: data.index(b"PK\1\2")] + rest)
    assert contents(planned(path)) == [*(data for _, data in ZIPPED), "truncated"]


def test_a_wide_size_without_its_field_ends_the_search(tmp_path):
    """A header that points to an extra field that is not there tells no size."""
    header = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 8, 0, 33, 0, *[0xFFFFFFFF] * 2, 5, 0)
    path = tmp_path / "a.zip"
    path.write_bytes(header + b"1.jpg" + b"data")
    assert contents(planned(path)) == ["truncated"]


def test_a_wide_end_is_looked_for_in_the_file_alone(tmp_path):
    """A locator at the very start, or one that leads to the last bytes, leads to no wide end."""
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 1 << 62, 1)
    path = tmp_path / "a.zip"
    path.write_bytes(locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0))
    with pytest.raises(UserInputError, match="no images in it"):
        planned(path)
    data = a_zip()
    end = data.rindex(b"PK\5\6")
    finish = bytearray(data[end:])
    finish[20:22] = struct.pack("<H", 4)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) + len(locator), 1)
    path.write_bytes(data[:end] + locator + finish + b"PK\6\6")
    assert contents(planned(path)) == [*(data for _, data in ZIPPED), "unreadable"]


def test_no_number_reads_beyond_the_file(tmp_path):
    """Bytes are read of what is there, whatever an archive claims."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    with contextlib.closing(archives.FileBytes(f"file://{path}")) as file:
        for huge in (1 << 31, 1 << 63, 1 << 64, 1 << 88):
            assert file.read_at(4, huge) == b"456789"
            assert file.read_at(huge, 4) == file.read_at(huge, huge) == b""
            assert not file.reaches(huge)
