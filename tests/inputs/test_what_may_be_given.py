"""The tables of docs/inputs.md, run: each row has a small input, and becomes what it says there."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.fuzz import thrift
from catdog import storage
from catdog.errors import ImageRejected, UserInputError
from catdog.inputs import PLAN_SCHEMA, Columns, Skips, SourceLimits, list_images, read_images
from catdog.storage import odd_names

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
LIMITS = SourceLimits()
fsspec.register_implementation("catdog", odd_names.OddNameFileSystem, clobber=True)
JPEG = b"\xff\xd8 not decoded here"


def rows_of_the_page():
    """The first cell of each row of each table."""
    found = []
    for table in re.findall(r"\| --- .*\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8")):
        found += [re.split(r"(?<!\\) \| ", line[2:], maxsplit=1)[0] for line in table.splitlines()]
    return found


@dataclass(frozen=True)
class Case:
    """An input, and what becomes of it.

    Attributes:
        row: the first cell of its row.
        files: content by name, relative to a folder of its own.
        given: what is named, relative to it.
        becomes: label, or error, by name.
        passed_over: how many of each kind.
        columns: as `Columns`.
        refused: what a refusal says, in place of all that.
    """

    row: str
    files: dict
    given: tuple
    becomes: dict = field(default_factory=dict)
    passed_over: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    refused: str = ""


def packed(kind, *names, method=zipfile.ZIP_STORED):
    """An archive with files of these names."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name in names:
                archive.writestr(name, JPEG)
    else:
        with tarfile.open(fileobj=stream, mode=kind) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(JPEG)
                archive.addfile(info, io.BytesIO(JPEG))
    return stream.getvalue()


def samples():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in {"0.jpg": JPEG, "0.cls": b"7", "1.jpg": JPEG, "1.cls": b"\xff"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def pages_of_a_tiff():
    stream = io.BytesIO()
    page = Image.new("L", (8, 8))
    page.save(stream, "TIFF", save_all=True, append_images=[page])
    return stream.getvalue()


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def named_classes():
    sink = io.BytesIO()
    told = b'{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    table = pa.table({"bytes": [JPEG], "label": [1]}).replace_schema_metadata(
        {b"huggingface": told}
    )
    pq.write_table(table, sink)
    return sink.getvalue()


def expanding():
    """A table of one image in each row group; the page of the last one claims two gigabytes."""
    sink = io.BytesIO()
    images = pa.table({"bytes": [JPEG, JPEG]})
    pq.write_table(images, sink, row_group_size=1, compression="none", use_dictionary=False)
    data = sink.getvalue()
    page = pq.read_metadata(sink).row_group(1).column(0).data_page_offset
    size = thrift.numbers(data, page)[1]  # behind its type
    return data[: size.start] + b"\xfc\xff\xff\xff\x0f" + data[size.end :]


def two(table, data, given=None):
    """A table beside the images `cat/0.jpg` and `dog/1.jpg`."""
    return {"cat/0.jpg": JPEG, "dog/1.jpg": JPEG, table: data}, (given or table,)


# Its first name claims to be UTF-8, and is none; the flags of the other archive say that it is encrypted.
NOT_UTF8 = packed("zip", "é.jpg", "0.jpg").replace("é".encode(), b"\xff\xff")
ENCRYPTED = packed("zip", "0.jpg").replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0")
BOTH = {"cat/0.jpg": "cat", "dog/1.jpg": "dog"}
CSV = "uri,label\ncat/0.jpg,cat\ndog/1.jpg,dog\n"
LONG = "x" * 70_000
NO_PHOTOS = {"cat/0.jpg": JPEG}

CASES = [
    Case("an image", {"photo.txt.webm": JPEG}, ("photo.txt.webm",), {"photo.txt.webm": None}),
    Case(
        "a folder, an S3 prefix",
        {"cat/0": JPEG, "dog/deep/1.weird": JPEG, "dog/.2.jpg": JPEG, "list.txt": b"x"},
        ("",),
        {"cat/0": "cat", "dog/deep/1.weird": "dog"},
        {"hidden": 1, ".txt": 1},
    ),
    Case(
        "a glob, quoted: `'photos/2024-*/*.jpg'`",
        {"photos/2024-1/0.jpg": JPEG, "photos/2024-1/0.png": JPEG, "photos/2023-1/0.jpg": JPEG},
        ("photos/2024-*/*.jpg",),
        {"2024-1/0.jpg": "2024-1"},
    ),
    Case(
        "shards, quoted: `'shard-{000..999}.tar'`, `'{cat,dog}/'`",
        {f"shard-{n:03}.tar": packed("w", f"{n}.jpg") for n in (8, 9, 10)},
        ("shard-{008..010}.tar",),
        {"8.jpg": None, "9.jpg": None, "10.jpg": None},
    ),
    Case(
        "shards, quoted: `'shard-{000..999}.tar'`, `'{cat,dog}/'`",
        {"cat/0.jpg": JPEG},
        ("{cat,dog}/",),
        refused="dog/: there is no such",
    ),
    *(
        Case(
            "`.tar`, `.tar.gz`, `.tgz`, `.zip`",
            {name: packed(kind, "all/cat/0.jpg", "all/dog/1.jpg", "all/x.json")},
            (name,),
            BOTH,
            {".json": 1},
        )
        for name, kind in [
            ("a.tar", "w"),
            ("a.tar.gz", "w:gz"),
            ("a.tgz", "w:gz"),
            ("a.zip", "zip"),
        ]
    ),
    Case(
        "a `.zip` whose directory at the end is damaged or missing",
        {"a.zip": packed("zip", "cat/0.jpg", "dog/1.jpg").replace(b"PK\1\2", b"PK\1\0")},
        ("a.zip",),
        BOTH | {"a.zip": "unreadable"},
    ),
    Case(
        "a `.tif` or `.tiff` with several pages, outside archives, with `--pages`",
        {"a.tif": pages_of_a_tiff(), "b.jpg": JPEG},
        ("",),
        {"a.tif": None, "b.jpg": None},
    ),
    *(
        Case(
            "a name with `::` in it, a name in an archive that begins with `/`, a tar behind another "
            "one in the same file, a zip without a sound directory, a member of a `.tgz`, of a damaged "
            "tar, or of a zip that Python's zipfile refuses or whose members have other names in "
            "their own headers",
            {file: archive},
            (file,),
            dict.fromkeys(names) | damaged,
        )
        for file, archive, names, damaged in [
            ("a.tar", packed("w", "a::0.jpg"), ["a::0.jpg"], {}),
            ("a.tar", packed("w", "/0.jpg"), ["0.jpg"], {}),
            ("a.tar", packed("w", "0.jpg") + packed("w", "1.jpg"), ["0.jpg", "1.jpg"], {}),
            ("a.TGZ", packed("w:gz", "0.jpg"), ["0.jpg"], {}),
            ("a.tar", packed("w", "0.jpg", "1.jpg")[:1540], ["0.jpg"], {"a.tar": "truncated"}),
            ("a.zip", NOT_UTF8, ["0.jpg"], {"\ufffd\\xff\ufffd\\xff.jpg": "unreadable"}),
        ]
    ),
    *(
        Case(
            "members of a `.zip` that are encrypted, or compressed otherwise than by deflate",
            {"a.zip": archive},
            ("a.zip",),
            {"0.jpg": "unsupported"},
        )
        for archive in (packed("zip", "0.jpg", method=14), ENCRYPTED)
    ),
    Case(
        "names in a `.zip` that are not marked as UTF-8",
        {"a.zip": packed("zip", "ab/de.jpg", r"x\y.jpg").replace(b"ab/de", b"\x95\\/\x83\\")},
        ("a.zip",),
        {"ò\\/â\\.jpg": "ò\\", "x/y.jpg": "x"},
    ),
    *(
        Case(
            "`.tar.bz2`, `.tar.xz`, `.tar.zst`, `.7z`, `.rar` and the like",
            {name: b"x"},
            (name,),
            refused="archives are .tar, .tar.gz, .tgz or .zip",
        )
        for name in ("a.tar.bz2", "a.tbz", "a.txz", "a.TZST", "a.tar.lz4", "a.7z", "a.rar")
    ),
    Case(
        "`.tar.bz2`, `.tar.xz`, `.tar.zst`, `.7z`, `.rar` and the like",
        {"cat/a.7z": b"x", "dog.zip": packed("zip", "a.tar.zst")},
        ("",),
        {"cat/a.7z": "unsupported", "a.tar.zst": "unsupported"},
    ),
    Case("a list: `.txt`", *two("l.txt", b"cat/0.jpg\ndog/1.jpg\n"), BOTH),
    *(
        Case("a table: `.csv`, `.tsv`, `.jsonl` (`.ndjson`), `.parquet`", *two(name, data), BOTH)
        for name, data in {
            "t.csv": CSV.encode(),
            "t.tsv": CSV.replace(",", "\t").encode(),
            "t.jsonl": b'{"uri": "cat/0.jpg"}\n{"uri": "dog/1.jpg", "label": "dog"}\n',
            "t.ndjson": b'{"uri": "cat/0.jpg"}\n{"uri": "dog/1.jpg"}\n',
            "t.parquet": parquet(uri=["cat/0.jpg", "dog/1.jpg"]),
        }.items()
    ),
    Case(
        "WebDataset shards (`.tar`, `.tar.gz`, `.zip`) with `--label-from cls`, `txt` or `json:KEY`",
        {"s.tar": samples()},
        ("s.tar",),
        {"0.jpg": "7", "1.jpg": "unreadable"},
        columns={"label_from": "cls"},
    ),
    Case(
        "`metadata.csv`, `metadata.jsonl`, `metadata.parquet` in a folder, or in its `train/`, `val/`, "
        "`test/` (Hugging Face's image folders)",
        {"0.jpg": JPEG, "cat/1.jpg": JPEG, "metadata.csv": b"file_name,label\n0.jpg,lynx\n"},
        ("",),
        {"0.jpg": "lynx", "cat/1.jpg": "cat"},
        {".csv": 1},
    ),
    *(
        Case(row, NO_PHOTOS | dict.fromkeys(names, b"x"), ("",), {"cat/0.jpg": "cat"}, counts)
        for row, names, counts in [
            ("hidden", [".cat/0.jpg", "cat/._0.jpg"], {"hidden": 2}),
            ("sidecars", ["cat/0.xmp", "cat/0.jpg.AAE", "cat/0.pp3"], {"sidecars": 3}),
            ("system files", ["Thumbs.db", "cat/Icon\r", "Picasa.ini"], {"system files": 3}),
            ("system folders", ["@eaDir/1.jpg", "cat/#recycle/2.jpg"], {"system folders": 2}),
            (
                "`.txt`, `.json`, `.mp4`, ...",
                ["a.txt", "b.JSON", "c.mp4"],
                {".txt": 1, ".json": 1, ".mp4": 1},
            ),
        ]
    ),
    Case(
        "without a name",
        {"a.tar": packed("w", ".", "0.jpg")},
        ("a.tar",),
        {"0.jpg": None},
        {"without a name": 1},
    ),
    Case(
        "an entry",
        {
            "l.txt": b"cat/0.jpg\na.zip\ndog/\nzip://x/2.jpg::a.zip\n",
            "cat/0.jpg": JPEG,
            "dog/1.jpg": JPEG,
            "a.zip": packed("zip", "x/2.jpg", "x/3.jpg"),
        },
        ("l.txt",),
        {"cat/0.jpg": "cat", "1.jpg": None, "x/2.jpg": "x", "x/3.jpg": "x"},
        {"named more than once": 1},
    ),
    Case(
        "empty lines; in lists, lines that begin with `#`",
        {"#1.jpg": JPEG, "l.txt": b"\n# of mine\n./#1.jpg\n"},
        ("l.txt",),
        {"#1.jpg": None},
    ),
    Case(
        "spaces or quotes around a value",
        {" 0.jpg": JPEG, "1.jpg": JPEG, "l.txt": b'" 0.jpg"\n  1.jpg \n'},
        ("l.txt",),
        {" 0.jpg": None, "1.jpg": None},
    ),
    *(
        Case(
            "commas, semicolons, tabs, vertical bars",
            *two("t.csv", CSV.replace(",", each).encode()),
            BOTH,
        )
        for each in ",;\t|"
    ),
    *(
        Case(
            "UTF-8, with or without a byte order mark, UTF-16, UTF-32; gzip-compressed "
            "(`.csv.gz`) or not",
            *two(name, data),
            BOTH,
        )
        for name, data in [
            *(("t.csv", CSV.encode(each)) for each in ("utf-8-sig", "utf-16", "utf-32")),
            ("t.csv.gz", gzip.compress(CSV.encode())),
        ]
    ),
    *(
        Case("the column of URIs", *two("t.csv", CSV.replace("uri", name).encode()), BOTH)
        for name in (
            "URL",
            "path",
            "file",
            "file_name",
            "filename",
            "Image",
            "image_path",
            "s3_uri",
        )
    ),
    Case(
        "the column of URIs",
        *two("t.csv", CSV.replace("uri", "photo").encode()),
        BOTH,
        columns={"uri_column": "photo"},
    ),
    Case(
        "the column of labels",
        *two("t.csv", b"uri,LABEL\ncat/0.jpg,lynx\n"),
        {"cat/0.jpg": "lynx"},
    ),
    Case(
        "the column of labels",
        *two("t.csv", b"uri,kind\ncat/0.jpg,lynx\n"),
        {"cat/0.jpg": "lynx"},
        columns={"label_column": "kind"},
    ),
    *(
        Case("none of these columns, or two of them", *two("t.csv", data), refused=said)
        for data, said in [
            (b"a,b\n1,2\n", "the columns a, b"),
            (b"path,url\n1,2\n", "path and url"),
        ]
    ),
    *(
        Case(
            "images in a Parquet table", {"t.parquet": data}, ("t.parquet",), becomes, columns=named
        )
        for data, becomes, named in [
            (parquet(bytes=[JPEG]), {"0": None}, {}),
            (parquet(image=[JPEG], name=["cat/0.jpg"]), {"cat/0.jpg": "cat"}, {}),
            (parquet(image=[{"bytes": JPEG, "path": "0.jpg"}], label=["a"]), {"0.jpg": "a"}, {}),
            (parquet(photo=[JPEG]), {"0": None}, {"uri_column": "photo"}),
        ]
    ),
    Case(
        "bytes and paths without any bytes",
        *two("t.parquet", parquet(image=[{"bytes": None, "path": "cat/0.jpg"}])),
        {"cat/0.jpg": "cat"},
    ),
    Case("labels as numbers", *two("t.csv", b"uri,label\ncat/0.jpg,3\n"), {"cat/0.jpg": "3"}),
    Case("labels as numbers", {"t.parquet": named_classes()}, ("t.parquet",), {"0": "dog"}),
    *(
        Case(
            "a value that is not UTF-8, a line above 65,536 letters, a line without a URI, a line that is not JSON",
            *two(name, data),
            {"cat/0.jpg": "cat", **dict.fromkeys([name], "unreadable")},
        )
        for name, data in [
            ("t.csv", b"uri,label\ncat/0.jpg,cat\ndog/1.jpg,\xff\n"),
            ("t.csv", f"uri,label\ncat/0.jpg,cat\n{LONG}\n".encode()),
            ("t.csv", b"uri,label\ncat/0.jpg,cat\n,dog\n"),
            ("t.jsonl", b'{"uri": "cat/0.jpg"}\n{\n'),
        ]
    ),
    Case(
        "a quote that is not closed",
        *two("t.csv", b'uri,label\ncat/0.jpg,cat\n"dog/1.jpg,dog\ndog/1.jpg,dog\n'),
        {"cat/0.jpg": "cat", "t.csv": "unreadable"},
    ),
    Case(
        "empty lines before the column names, Excel's `sep=;`",
        *two("t.csv", b"\nsep=;\nuri;label\ncat/0.jpg;cat\ndog/1.jpg;dog\n"),
        BOTH,
    ),
    Case(
        "a column's name with line breaks, in quotes",
        *two("t.csv", b'"uri","a\nb",label\ncat/0.jpg,,cat\ndog/1.jpg,,dog\n'),
        BOTH,
    ),
    Case(
        "a quote among the column names that is not closed",
        *two("t.csv", b'uri,"label\ncat/0.jpg,cat\n'),
        refused="is not closed",
    ),
    Case("a first line above 65,536 letters", *two("t.csv", LONG.encode()), refused="first line"),
    Case(
        "a Parquet table that expands to gigabytes and more than 200 times its size "
        "(`--max-expansion`)",
        *two("t.parquet", parquet(uri=pa.array(["a.jpg"] * 1_000_000).dictionary_encode())),
        refused="more than 200 a byte",
    ),
    Case(
        "pictures in a Parquet table whose pages expand to 256 MiB and more than 200 times their "
        "bytes (`--max-expansion`)",
        {"t.parquet": expanding()},
        ("t.parquet",),
        {"0": None, "1": "too-large"},
    ),
    *(
        Case("lines that end in `\\r` alone", *two(name, data), BOTH)
        for name, data in {
            "l.txt": b"cat/0.jpg\rdog/1.jpg\r",
            "t.csv": CSV.replace("\n", "\r").encode(),
            "t.jsonl": b'{"uri": "cat/0.jpg"}\r{"uri": "dog/1.jpg"}\r',
        }.items()
    ),
    *(
        Case(
            "a list or table compressed with bzip2, xz or zstd, an Excel workbook or a picture named "
            "`.csv`",
            *two(name, data),
            refused=said,
        )
        for name, data, said in [
            ("t.csv.bz2", b"x", "compressed with gzip, others not"),
            ("t.parquet.gz", b"x", "compressed with gzip, others not"),
            ("t.csv", bz2.compress(CSV.encode()), "compressed with bzip2"),
            ("t.jsonl", lzma.compress(b"{}"), "compressed with xz"),
            ("t.tsv", packed("zip", "xl/workbook.xml"), "Excel"),
            ("l.txt", b"\xff\xd8\xff\xe0" + JPEG, "a JPEG"),
            ("t.csv.gz", gzip.compress(b"PAR1"), "name it .parquet"),
        ]
    ),
    Case(
        "a truncated text or gzip file",
        *two("t.csv.gz", gzip.compress(CSV.encode())[:-4]),
        BOTH | {"t.csv.gz": "truncated"},
    ),
    Case(
        "several labels of an image",
        *two(
            "t.jsonl",
            b'{"uri": "cat/0.jpg", "label": ["cat", "dog"]}\n{"uri": "dog/1.jpg", "label": []}\n',
        ),
        {"cat/0.jpg": "cat;dog", "dog/1.jpg": ";"},
    ),
    Case(
        "a Windows path",
        *two("l.txt", b"cat/0.jpg\nC:\\dog\\1.jpg\n"),
        {"cat/0.jpg": "cat", "C:\\dog\\1.jpg": "unsupported"},
    ),
    Case(
        "`file://`, `/`, `s3://bucket`, `s3:/...`",
        *two("l.txt", b"cat/0.jpg\nfile://\n/\ns3://bucket\ns3:/b/0.jpg\n"),
        {"cat/0.jpg": "cat"}
        | dict.fromkeys(["file://", "/", "s3://bucket", "s3:/b/0.jpg"], "unsupported"),
    ),
    Case(
        "credentials: `s3://KEY:SECRET@bucket/...`, `https://user:password@host/...`, signatures in "
        "a query",
        *two("l.txt", b"cat/0.jpg\ns3://KEY:SECRET@bucket/0.jpg\n"),
        {"cat/0.jpg": "cat", "s3://***@bucket/0.jpg": "unsupported"},
    ),
]
# Rows that want more than files, each with a test of its own below.
OTHERS = {
    "folder markers",
    "socket, pipe or device",
    "folder that is there already",
    "a folder outside the list's own folder",
    "`https://...`, `http://...`",
}


def become(given, columns=None):
    """Label, or error once it was read, by name; and what was passed over."""
    skips = Skips()
    batches = list_images(given, LIMITS, Columns(**(columns or {})), skips)
    table = pa.Table.from_batches(list(batches), PLAN_SCHEMA)
    found = {}
    for row, data in zip(table.to_pylist(), read_images(table, LIMITS, 2), strict=True):
        rejected = isinstance(data, ImageRejected)
        found[row["name"]] = data.code.value if rejected else row["label"]
        if not rejected and not row["uri"].startswith("parquet:") and row["codec"] != "row":
            with fsspec.open(row["uri"]) as file:
                assert file.read() == data
    assert len(found) == table.num_rows
    return found, skips.counts()


def test_pages_of_a_tiff(tmp_path):
    """Each is an image, on request, and its URI opens it."""
    draw(tmp_path, {"a.tif": pages_of_a_tiff()})
    batches = list_images([f"{tmp_path}/a.tif"], LIMITS, Columns(pages=True))
    (rows,) = batches
    assert rows.column("uri").to_pylist() == [
        f"catdog://page={number}!file%3A//{tmp_path}/a.tif" for number in (0, 1)
    ]


def draw(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.row[:40])
def test_a_row(case, tmp_path):
    """The input becomes what the row says; every URI of it opens with fsspec."""
    draw(tmp_path, case.files)
    given = [f"{tmp_path}/{name}" for name in case.given]
    if case.refused:
        with pytest.raises(UserInputError, match=case.refused):
            become(given, case.columns)
        return
    found, passed_over = become(given, case.columns)
    assert found == case.becomes
    assert passed_over == case.passed_over


def test_every_row_has_an_input():
    """And every input its row."""
    page = rows_of_the_page()
    assert len(page) == len(set(page))
    assert {case.row for case in CASES} | OTHERS == set(page)


def test_folder_markers(s3):
    """Empty keys that stand for a folder are passed over."""
    keys = {"cat_$folder$": b"", "dog": b"", "dog/1.jpg": JPEG, "cat/0.jpg": JPEG}
    for key, data in keys.items():
        storage.write_atomic(f"{s3}/{key}", data)
    assert become([s3]) == (BOTH, {"folder markers": 2})


def test_what_is_no_file(tmp_path):
    """A pipe, and a link's second way to a folder, get no row."""
    draw(tmp_path, NO_PHOTOS)
    os.mkfifo(tmp_path / "cat" / "pipe")
    (tmp_path / "kitten").symlink_to(tmp_path / "cat")
    expected = {"socket, pipe or device": 1, "folder that is there already": 1}
    assert become([str(tmp_path)]) == ({"cat/0.jpg": "cat"}, expected)


@pytest.mark.parametrize("name", ["p.jpg", "p.txt", "p.csv", "p.parquet", "p.zip", "p.tar", "p"])
def test_a_pipe_that_is_named(tmp_path, name):
    """Given itself it is refused, in a list it costs its row: nothing waits for its other end."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserInputError, match=f"{name}: it is a pipe, a socket or a device: save"):
        become([f"{tmp_path}/{name}"])
    draw(tmp_path, {"cat/0.jpg": JPEG, "l.list.txt": f"{name}\ncat/0.jpg\n/dev/null\n".encode()})
    expected = {name: "unsupported", "cat/0.jpg": "cat", "/dev/null": "unsupported"}
    found = become([f"{tmp_path}/l.list.txt"])[0]
    assert {each.removeprefix("dev/") for each in found} == {name, "cat/0.jpg", "null"}
    assert sorted(found.values()) == sorted(expected.values())


def test_a_folder_outside_the_lists_own(tmp_path, caplog):
    """It is read, and named in a warning."""
    draw(tmp_path, {"cat/0.jpg": JPEG, "lists/l.txt": b"../cat/\n"})
    found, _ = become([f"{tmp_path}/lists/l.txt"])
    assert found == {"0.jpg": None}
    assert f"{tmp_path}/cat" in caplog.text


def test_an_address_of_this_machine(tmp_path):
    """A list leads to no server here: a row `forbidden`, and no request."""
    draw(tmp_path, {"l.txt": b"http://127.0.0.1:9/0.jpg\n"})
    found, _ = become([f"{tmp_path}/l.txt"])
    assert list(found.values()) == ["forbidden"]
