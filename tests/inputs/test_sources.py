"""Every kind of input on local disks; archives are in test_archives.py, S3 in test_s3.py."""

from __future__ import annotations

import csv
import os
import tempfile
import threading
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from catdog.inputs import entries as plan_entries

LIMITS = SourceLimits()


def planned(*inputs, limits=LIMITS):
    return pa.Table.from_batches(list_images([str(i) for i in inputs], limits), PLAN_SCHEMA)


def results(table, limits=LIMITS, threads=4):
    return list(read_images(table, limits, threads))


def make(folder: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def make_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)


def rows(table):
    columns = zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True)
    return list(columns)


def test_folder(tmp_path):
    """Recursively, in the order of whole paths; hidden and plainly other files are left out."""
    make(tmp_path, "dog/1.jpg", "cat/a/2.PNG", "cat-2/3.jpg", "mystery", "odd.xyz", "4.jpg")
    make(
        tmp_path,
        "_SUCCESS",
        ".hidden.jpg",
        ".git/5.jpg",
        "__MACOSX/6.jpg",
        "cat/notes.TXT",
        "cat/Thumbs.db",
    )
    table = planned(tmp_path)
    assert rows(table) == [
        ("4.jpg", None),
        ("cat-2/3.jpg", "cat-2"),
        ("cat/a/2.PNG", "cat"),
        ("dog/1.jpg", "dog"),
        ("mystery", None),
        ("odd.xyz", None),
    ]
    assert table["uri"][0].as_py() == f"file://{tmp_path}/4.jpg"
    assert [r.decode() for r in results(table)] == table["name"].to_pylist()
    assert table["size"].to_pylist() == [len(name) for name in table["name"].to_pylist()]
    for uri, data in zip(table["uri"].to_pylist(), results(table), strict=True):
        with fsspec.open(uri) as file:
            assert file.read() == data


@pytest.mark.parametrize(
    "name", ["a b.jpg", "a#b?c%20d+e.jpg", "ü日本😀.jpg", "[1]*.jpg", "x.txt.jpg"]
)
def test_odd_names(tmp_path, name):
    """Names are raw: planned, read and opened by fsspec as they are."""
    make(tmp_path, name)
    table = planned(tmp_path / name)
    assert table["uri"].to_pylist() == [f"file://{tmp_path}/{name}"]
    assert table["name"].to_pylist() == [name]
    assert results(table) == [name.encode()]
    assert planned(f"file://{tmp_path}/{name}").equals(table)
    with fsspec.open(table["uri"][0].as_py()) as file:
        assert file.read() == name.encode()


def test_only_extensions_and_whole_names_are_skipped(tmp_path):
    """What merely looks like a skipped name is an image: folders, names without a dot."""
    names = ["_SUCCESS/1.jpg", "log", "c/2", "notes.txt/3.jpg", "x.v2/md", "MACOSX/4.jpg"]
    make(tmp_path, *names)
    assert sorted(planned(tmp_path)["name"].to_pylist()) == sorted(names)


def test_explicit_files_are_images(tmp_path):
    """A file named by the user is planned whatever its extension, also an empty one."""
    make(tmp_path, "notes.json", ".hidden")
    (tmp_path / "empty.jpg").touch()
    table = planned(tmp_path / "notes.json", tmp_path / ".hidden", tmp_path / "empty.jpg")
    assert table["name"].to_pylist() == ["notes.json", ".hidden", "empty.jpg"]
    assert results(table)[2].code == ErrorCode.EMPTY


def test_names_that_are_no_utf8(tmp_path):
    """Each becomes a row `unreadable` that shows the bytes, and costs no neighbour."""
    make(tmp_path, "1.jpg")
    for name in (b"bad\xff.jpg", b"bad\xfe.jpg"):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(b"x")
    table = planned(tmp_path)
    assert sorted(table["name"].to_pylist()) == [
        "1.jpg",
        "bad\ufffd\\xfe.jpg",
        "bad\ufffd\\xff.jpg",
    ]
    assert table["error"].to_pylist() == [None, "unreadable", "unreadable"]


def test_names_that_look_alike(tmp_path):
    """A name in bytes that are no UTF-8, and names that spell those bytes: an image each."""
    make(tmp_path, r"bad\xff.jpg", "bad\ufffd\\xff.jpg", "bad\ufffd.jpg")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg"))).write_bytes(b"x")
    table = planned(tmp_path)
    assert len(set(table["uri"].to_pylist())) == 4
    assert sorted(table["error"].to_pylist(), key=str) == [None, None, None, "unreadable"]
    assert planned(tmp_path, tmp_path).equals(table)


def test_links(tmp_path):
    """Links to files and folders are followed; loops end; a link to nowhere is one row."""
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "a/file.jpg").symlink_to(tmp_path / "b/2.jpg")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    for i in range(20):  # 2 ** 20 ways to the last one
        (tmp_path / f"z/{i}").mkdir(parents=True)
        for link in "xy":
            (tmp_path / f"z/{i}/{link}").symlink_to(tmp_path / f"z/{i + 1}")
    (tmp_path / "z/20").mkdir()
    make(tmp_path, "z/20/3.jpg")
    table = planned(tmp_path)
    read = dict(zip(table["name"].to_pylist(), results(table), strict=True))
    assert read.pop("nowhere.jpg").code == ErrorCode.MISSING
    assert sorted(read.values()) == [b"a/1.jpg", b"b/2.jpg", b"b/2.jpg", b"z/20/3.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["1.jpg", "x[1].jpg"]),
        ("*", ["1.jpg", "cat/2.jpg", "cat/deep/3.jpg", "dog/2.jpg", "x[1].jpg"]),
        ("*/2.jpg", ["cat/2.jpg", "dog/2.jpg"]),
        ("**/*.jpg", ["1.jpg", "cat/2.jpg", "cat/deep/3.jpg", "dog/2.jpg", "x[1].jpg"]),
        ("[cd]*/?.jpg", ["cat/2.jpg", "dog/2.jpg"]),
        ("[!c]*/2.jpg", ["dog/2.jpg"]),
        ("c*", ["cat/2.jpg", "cat/deep/3.jpg"]),
        ("cat/**/3.jpg", ["deep/3.jpg"]),
        ("x[1].jpg", ["x[1].jpg"]),
    ],
)
def test_globs(tmp_path, pattern, expected):
    """Like a shell's, with `**`; what matches a folder means all in it; an existing file wins."""
    make(tmp_path, "1.jpg", "cat/2.jpg", "cat/deep/3.jpg", "dog/2.jpg", "x[1].jpg", "cat/n.txt")
    assert planned(tmp_path / pattern)["name"].to_pylist() == expected


def test_lists(tmp_path):
    """Relative to the list's folder, with comments, absolute paths, URIs, archives and folders."""
    make(
        tmp_path,
        "lists/cat/1.jpg",
        "lists/#2.jpg",
        "other/3.jpg",
        "lists/dog/4.jpg",
        "lists/a.json",
    )
    text = "# comment\r\n\ncat/1.jpg\n./#2.jpg\n../other/3.jpg\ndog/\na.json\ncat/missing.jpg\n"
    text += f"{tmp_path}/other/3.jpg\nfile://{tmp_path}/other/3.jpg\nftp://example.org/x.jpg\n"
    text += "none.zip\nnowhere/\n"
    (tmp_path / "lists/all.txt").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"bad\xff.jpg\n")
    table = planned(tmp_path / "lists/all.txt")
    base = f"{tmp_path}".lstrip("/")
    assert rows(table) == [
        ("cat/1.jpg", "cat"),
        ("#2.jpg", None),
        (f"{base}/other/3.jpg", None),
        ("4.jpg", None),
        ("a.json", None),
        ("cat/missing.jpg", "cat"),
        ("ftp://example.org/x.jpg", None),
        ("none.zip", None),
        ("nowhere", None),
        ("bad\ufffd\\xff.jpg", None),
    ]
    codes = [r.code.value if isinstance(r, ImageRejected) else r for r in results(table)]
    assert codes[:5] == [
        b"lists/cat/1.jpg",
        b"lists/#2.jpg",
        b"other/3.jpg",
        b"lists/dog/4.jpg",
        b"lists/a.json",
    ]
    assert codes[5:] == ["missing", "unsupported", "missing", "missing", "unreadable"]


def test_results_uris_are_inputs(tmp_path):
    """The chained URIs that results show can be listed again: the same rows come out."""
    make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"1", "cat/2.txt": b"2", "dog/3.jpg": b"3"})
    pq.write_table(pa.table({"bytes": [b"x", b"y"]}), tmp_path / "t.parquet")
    table = planned(tmp_path / "a.zip", tmp_path / "t.parquet")
    uris = table["uri"].to_pylist()
    (tmp_path / "l.txt").write_text("\n".join([*uris, f"zip://no.jpg::file://{tmp_path}/a.zip"]))
    again = planned(tmp_path / "l.txt")
    assert results(again)[:-1] == results(table) == [b"1", b"3", b"x", b"y"]
    assert again["error"].to_pylist() == [None] * 4 + ["missing"]
    assert results(planned(*uris)) == results(table)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_uris(tmp_path, kind):
    """A column `uri`, and labels where there is a column for them."""
    make(tmp_path, "x/1.jpg", 'x/2,"quoted".jpg')
    data = {
        "n": [1, 2, 3],
        "uri": ["x/1.jpg", 'x/2,"quoted".jpg', ""],
        "label": ["cat", None, "dog"],
    }
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(data), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([data.keys(), *zip(*data.values(), strict=True)])
    table = planned(path)
    assert rows(table)[:2] == [("x/1.jpg", "cat"), ('x/2,"quoted".jpg', "x")]
    assert table["error"].to_pylist() == [None, None, "unreadable"]
    assert results(table)[:2] == [b"x/1.jpg", b'x/2,"quoted".jpg']


@pytest.mark.parametrize("labelled", [True, False])
def test_tables_of_bytes(tmp_path, labelled):
    """Rows of a Parquet table are images; `uri` names them where there is one."""
    count = 1000
    data = {"bytes": [b"%d" % i if i else b"" for i in range(count)]}
    if labelled:
        data |= {"uri": [f"web://x/{i}" for i in range(count)], "label": ["a", "b"] * (count // 2)}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(data), path, row_group_size=300)
    table = planned(path)
    assert table.num_rows == count
    assert table["uri"][7].as_py() == ("web://x/7" if labelled else f"parquet://7::file://{path}")
    assert table["label"][7].as_py() == ("b" if labelled else None)
    read = results(table)
    assert read[0].code == ErrorCode.EMPTY
    assert read[1:] == data["bytes"][1:]
    for order in ([3, 700, 2, 999], [999], [301, 302]):  # any order, across calls
        assert results(table.take(order)) == [b"%d" % i for i in order]


def test_repeated_names_in_a_table_are_kept_apart(tmp_path):
    """Rows that share a `uri` are different images: none is lost."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"bytes": [b"1", b"2", b"3"], "uri": ["x", None, "x"]}), path)
    table = planned(path)
    assert table["uri"].to_pylist() == [
        "x",
        f"parquet://1::file://{path}",
        f"parquet://2::file://{path}",
    ]
    assert results(table) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(("name", "start"), [("l.txt", "x.jpg\n"), ("t.csv", "uri\nx.jpg\n")])
def test_endless_lines_are_not_read(tmp_path, name, start):
    """A line without end costs one row, and what comes before it nothing."""
    (tmp_path / name).write_text(start + "y" * 200_000)
    assert planned(tmp_path / name)["error"].to_pylist() == [None, "unreadable"]


def test_each_image_is_planned_once(tmp_path):
    """Overlapping inputs and repeated entries give one row, where it was reached first."""
    make(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/3.jpg")
    (tmp_path / "l.txt").write_text("cat/1.jpg\n" * 3 + "dog/3.jpg\n")
    table = planned(tmp_path / "dog", tmp_path / "l.txt", tmp_path, tmp_path / "*/2.jpg")
    assert table["uri"].to_pylist() == [
        f"file://{tmp_path}/{name}" for name in ("dog/3.jpg", "cat/1.jpg", "cat/2.jpg")
    ]


def test_archives_in_folders_lie_unpacked(tmp_path):
    """An archive's members are named and labelled as if they had been unpacked beside it."""
    make(tmp_path, "cat/0.jpg")
    for where, member in (("cat/part.zip", "1.jpg"), ("part.zip", "dog/2.jpg")):
        make_zip(tmp_path / where, {member: b"x"})
    make(tmp_path, "z/broken.zip")
    table = planned(tmp_path)
    assert rows(table) == [
        ("cat/0.jpg", "cat"),
        ("cat/1.jpg", "cat"),
        ("dog/2.jpg", "dog"),
        ("z/broken.zip", None),
    ]


def test_wrong_inputs_are_named(tmp_path):
    """One line that names the input, for every way in which an input can be wrong."""
    make(tmp_path, "x/notes.txt", "t.csv", "t.parquet", "x.tar.xz")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "u.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for name in (
        "no.jpg",
        "no/x*",
        "*.png",
        "x",
        "t.csv",
        "t.parquet",
        "u.parquet",
        "x.tar.xz",
        "empty",
        "empty.txt",
    ):
        with pytest.raises(UserInputError) as caught:
            planned(tmp_path / name)
        assert name.rstrip("*") in str(caught.value)
        assert "\n" not in str(caught.value)
    for text in ("", "http://x/y.jpg", "s3://a:b@c/d", "bad\udcff.jpg", "nul\0.jpg"):
        with pytest.raises(UserInputError):
            planned(text)


@pytest.fixture
def as_nobody():
    """A folder of somebody without special rights, who this process is meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if os.getuid() == 0:
                os.seteuid(0)


def test_forbidden_files(as_nobody):
    """A file without permission is a row; an input without it is the user's error."""
    make(as_nobody, "1.jpg", "2.jpg", "a.zip", "sub/3.jpg")
    for name in ("1.jpg", "a.zip", "sub"):
        (as_nobody / name).chmod(0)
    read = results(planned(as_nobody))
    assert [getattr(r, "code", r) for r in read] == [
        ErrorCode.FORBIDDEN,
        b"2.jpg",
        ErrorCode.FORBIDDEN,
        ErrorCode.FORBIDDEN,
    ]
    for name in ("a.zip", "sub"):
        with pytest.raises(UserInputError, match="no permission to read it"):
            planned(as_nobody / name)
    (as_nobody / "sub").chmod(0o700)


def test_limits_on_bytes(tmp_path):
    """Files over the limit are rejected, also where the size is not known beforehand."""
    (tmp_path / "large.jpg").write_bytes(bytes(10 << 20))
    (tmp_path / "small.jpg").write_bytes(b"x")
    (tmp_path / "l.txt").write_text("large.jpg\nsmall.jpg\n")
    for given in (tmp_path, tmp_path / "l.txt"):
        table = planned(given)
        small = SourceLimits(max_bytes=(10 << 20) - 1)
        assert [getattr(r, "code", r) for r in results(table, small)] == [ErrorCode.TOO_LARGE, b"x"]
        assert results(table, SourceLimits(max_bytes=10 << 20))[0] == bytes(10 << 20)


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_file_that_a_list_names_is_bounded_before_it_is_read(tmp_path, size):
    """Whether it would be read at once or, being large, when its turn comes."""
    (tmp_path / "a.jpg").write_bytes(bytes(size))
    (tmp_path / "l.txt").write_text("a.jpg\n")
    table = planned(tmp_path / "l.txt")
    assert results(table, SourceLimits(max_bytes=size)) == [bytes(size)]
    (rejected,) = results(table, SourceLimits(max_bytes=size - 1))
    assert isinstance(rejected, ImageRejected)
    assert rejected.code == ErrorCode.TOO_LARGE
    assert f"{size:,} bytes" in rejected.detail


def test_files_that_change_after_planning(tmp_path):
    """Gone, replaced by a folder, grown or emptied: each costs its own row only, and is told."""
    make(tmp_path, *(f"{i}.jpg" for i in range(5)))
    table = planned(tmp_path)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "1.jpg").mkdir()
    (tmp_path / "2.jpg").write_bytes(bytes(5 << 20))
    (tmp_path / "3.jpg").write_bytes(b"")
    read = results(table)
    assert [getattr(r, "code", len(r) if isinstance(r, bytes) else 0) for r in read] == [
        ErrorCode.MISSING,
        ErrorCode.UNREADABLE,
        ErrorCode.CHANGED,
        ErrorCode.CHANGED,
        5,
    ]


@pytest.mark.parametrize("bytes_in_flight", [1, 10_000, 1 << 30])
def test_order_holds_whatever_is_read_ahead(tmp_path, bytes_in_flight):
    """One result for each entry in the order of entries, for mixed kinds and any limits."""
    make(tmp_path, *(f"{i % 3}/{i}.jpg" for i in range(100)))
    make_zip(tmp_path / "1/a.zip", {f"{i}.jpg": b"1/%d.jpg" % i for i in range(500, 600)})
    table = planned(tmp_path)
    order = [(i * 37) % table.num_rows for i in range(table.num_rows)]
    table = table.take(order)
    limits = SourceLimits(bytes_in_flight=bytes_in_flight)
    assert [r.decode() for r in results(table, limits)] == table["name"].to_pylist()


def test_giving_up_early_ends_the_threads(tmp_path):
    """Neither listing nor reading leaves threads behind when its consumer stops."""
    make(tmp_path, *(f"{i}/{i}.jpg" for i in range(300)))
    before = threading.active_count()
    table = planned(tmp_path)
    reading = read_images(table, LIMITS, 8)
    next(reading)
    reading.close()
    listing = list_images([str(tmp_path)], LIMITS)
    next(listing)
    listing.close()
    assert threading.active_count() == before


def test_batches_are_of_bounded_size(tmp_path, monkeypatch):
    """However rows come, batches hold as many as they may, and nothing is lost between them."""
    monkeypatch.setattr(plan_entries, "BATCH_ROWS", 64)
    make(tmp_path, *(f"{i % 5}/{i}.jpg" for i in range(300)))
    for k in range(3):
        make_zip(tmp_path / f"{k}.zip", {f"{k}/{i}.jpg": b"x" for i in range(70)})
    batches = list(list_images([str(tmp_path)], LIMITS))
    assert [b.num_rows for b in batches] == [64] * 7 + [510 - 7 * 64]
    assert len(set(pa.Table.from_batches(batches)["uri"].to_pylist())) == 510
    assert all(b.schema == PLAN_SCHEMA for b in batches)


def test_listing_is_deterministic(tmp_path):
    """Two runs give the same rows in the same order, threads or not."""
    make(tmp_path, *(f"{i % 7}/{i % 3}/{i}.jpg" for i in range(400)))
    for k in range(8):
        make_zip(tmp_path / f"{k}/{k}.zip", {f"{i}.jpg": b"x" for i in range(k + 1)})
    assert planned(tmp_path).equals(planned(tmp_path))


def test_entries_of_a_damaged_plan_are_rejected():
    """An unknown codec is a rejected row."""
    table = pa.Table.from_pylist([{"uri": "file:///x", "name": "x", "codec": "new"}], PLAN_SCHEMA)
    assert results(table)[0].code == ErrorCode.UNSUPPORTED
    assert results(table.slice(1)) == []
