"""Lists and tables as people have them: their columns, encodings, quotes, and what is damaged."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import ImageRejected, UserInputError
from catdog.inputs import PLAN_SCHEMA, Columns, SourceLimits, list_images, read_images

LIMITS = SourceLimits()
FILES = {
    f"{label}/{i}.jpg": b"%s %d" % (label.encode(), i) for label in ("cat", "dog") for i in (0, 1)
}
TEXT = "uri,label\n" + "".join(f"{name},{name[:3]}\n" for name in FILES)


@pytest.fixture
def folder(tmp_path):
    """Small files beside which tables are laid."""
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def planned(*inputs, **columns):
    batches = list_images([str(each) for each in inputs], LIMITS, Columns(**columns))
    return pa.Table.from_batches(batches, PLAN_SCHEMA)


def read(table):
    """Name, label, and what is read or why not, row by row."""
    results = [
        result.code.value if isinstance(result, ImageRejected) else result
        for result in read_images(table, LIMITS, threads=2)
    ]
    return list(zip(table["name"].to_pylist(), table["label"].to_pylist(), results, strict=True))


VIEWS = pytest.mark.skipif(
    int(pa.__version__.split(".")[0]) < 21, reason="pyarrow before 21 writes no views to Parquet"
)
RIGHT = [(name, name[:3], data) for name, data in FILES.items()]


def table_as(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("kind", ["list.txt", "table.csv", "table.parquet"])
def test_what_the_user_calls_an_image_is_kept(folder, kind):
    """The text of a line or row stands beside the URI, where that is another one."""
    name = next(iter(FILES))
    texts = [
        name,
        f"./{name}2",
        (folder / f"{name}3").as_uri(),
        f"s3://a/?X-Amz-Signature=s/{name}",
    ]
    if kind == "table.parquet":
        pq.write_table(pa.table({"uri": texts}), folder / kind)
    else:
        head = "uri\n" if kind == "table.csv" else ""
        (folder / kind).write_text(head + "\n".join(texts) + "\n")
    table = planned(folder / kind)
    assert table["given"].to_pylist() == [*texts[:2], None, None]
    assert table["uri"].to_pylist()[:3] == [
        (folder / each).as_uri() for each in (name, f"{name}2", f"{name}3")
    ]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_encodings(folder, encoding, compressed):
    """With and without a byte order mark, of 8, 16 and 32 bits, compressed or not: lists and tables."""
    compress = gzip.compress if compressed else bytes
    end = ".gz" if compressed else ""
    text = TEXT.replace("\n", "\r\n")
    table = table_as(folder, f"t.csv{end}", compress(text.encode(encoding)))
    assert read(planned(table)) == RIGHT
    names = "".join(f"{name}\r\n" for name in FILES)
    assert read(planned(table_as(folder, f"l.txt{end}", compress(names.encode(encoding))))) == RIGHT
    lines = "".join(json.dumps({"uri": name}) + "\n" for name in FILES)
    table = table_as(folder, f"t.jsonl{end}", compress(lines.encode(encoding)))
    assert read(planned(table)) == RIGHT


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ", ", " ; "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoted", [False, True])
def test_delimiters(folder, delimiter, end, quoted):
    """Commas, semicolons, tabs and bars are found; spaces around values count for nothing; quotes are taken off."""
    text = TEXT.replace("\n", f" {end}")
    if quoted:
        text = end.join(
            delimiter.join(f'"{value}"' for value in line.split(",")) for line in TEXT.splitlines()
        )
    text = text.replace("," if not quoted else "\0", delimiter)
    assert read(planned(table_as(folder, "t.csv", text.encode()))) == RIGHT
    if delimiter == "\t":
        assert read(planned(table_as(folder, "t.tsv", text.encode()))) == RIGHT


@pytest.mark.parametrize(
    "name",
    [*"uri URI Uri url path Path file file_name filename FileName image image_path s3_uri".split()],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_by_their_usual_names(folder, name, kind):
    """One column of a usual name, in any case, is the column of URIs; `label` in any case of labels."""
    rows = [{"id": 1, name: file, "LABEL": file[:3]} for file in FILES]
    table = write(folder, f"t.{kind}", rows)
    assert read(planned(table)) == RIGHT


def write(folder, name, rows):
    """Rows as a table of the kind that its name tells."""
    path = folder / name
    frame = pd.DataFrame(rows)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_that_are_named(folder, kind):
    """--uri-column and --label-column name others, in any case; they win over usual names."""
    rows = [
        {"uri": "no.jpg", "path": "no.jpg", "Where": file, "label": "no", "Kind": file[:3]}
        for file in FILES
    ]
    table = write(folder, f"t.{kind}", rows)
    assert read(planned(table, uri_column="Where", label_column="Kind")) == RIGHT
    assert read(planned(table, uri_column="where", label_column="kind")) == RIGHT
    assert {label for _, label, _ in read(planned(table, uri_column="Where"))} == {"no"}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        (
            ["a", "b"],
            {},
            "no column uri; it has the columns a, b; name that of the paths with --uri-column",
        ),
        (["path", "url"], {}, "path and url may all name the images; choose one with --uri-column"),
        (["uri", "b"], {"uri_column": "c"}, "no --uri-column c; it has the columns uri, b"),
        (["uri", "b"], {"label_column": "c"}, "--label-column c"),
        (["URI", "Uri"], {}, "2 columns uri"),
        (["uri", "Label", "LABEL"], {}, "2 columns label"),
    ],
)
def test_columns_that_are_not_clear(folder, kind, names, asked, said):
    """A table without a column of URIs, or with two, is refused in a line that names table and columns."""
    table = write(folder, f"t.{kind}", [dict.fromkeys(names, "cat/0.jpg")])
    with pytest.raises(UserInputError) as caught:
        planned(table, **asked)
    assert str(table) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_two_columns_of_one_name(folder, kind):
    """Two columns `uri`, `label` or `bytes` are refused."""
    for name in ("uri", "label", "bytes"):
        if kind == "csv" and name == "bytes":
            continue
        names = ["uri", name, name] if name != "uri" else ["uri", "uri"]
        if kind == "csv":
            table = table_as(folder, "t.csv", f"{','.join(names)}\nx,y,z\n".encode())
        else:
            table = folder / "t.parquet"
            columns = [pa.array([b"x" if each == "bytes" else "x"]) for each in names]
            pq.write_table(pa.Table.from_arrays(columns, names), table)
        with pytest.raises(UserInputError, match=rf"t\.{kind}: it has 2 columns {name}"):
            planned(table)


BYTES = [b"\xff one", b"two", b"", None, b"\0five"]
READ = [b"\xff one", b"two", "empty", "empty", b"\0five"]


def as_structs(kind):
    paths = pa.array([f"{i}.jpg" for i in range(len(BYTES))])
    return pa.StructArray.from_arrays([pa.array(BYTES, kind), paths], ["bytes", "path"])


@pytest.mark.parametrize(
    "column",
    [
        pa.array(BYTES, pa.binary()),
        pa.array(BYTES, pa.large_binary()),
        pytest.param(pa.array(BYTES, pa.binary_view()), marks=VIEWS),
        pa.array(BYTES, pa.binary()).dictionary_encode(),
        as_structs(pa.binary()),
        as_structs(pa.large_binary()),
    ],
    ids=lambda column: str(column.type)[:60],
)
@pytest.mark.parametrize("name", ["bytes", "image", "photo"])
def test_columns_of_images(folder, column, name):
    """Binary of every storage, and bytes with a path: by the usual names, or by --uri-column."""
    path = folder / "t.parquet"
    labels = pa.array([0, 1, 0, 1, 0])
    pq.write_table(pa.table({"n": labels, name: column, "label": labels}), path, row_group_size=2)
    asked = {} if name != "photo" or pa.types.is_struct(column.type) else {"uri_column": "photo"}
    table = planned(path, **asked)
    assert [result for _, _, result in read(table)] == READ
    assert table["label"].to_pylist() == ["0", "1", "0", "1", "0"]
    assert [result for _, _, result in read(table.take([4, 1]))] == [READ[4], READ[1]]
    if pa.types.is_struct(column.type):
        assert table["name"].to_pylist() == [f"{i}.jpg" for i in range(len(BYTES))]


def test_images_of_one_size(folder):
    """A binary column of fixed size, which bitmaps may have, is read as well."""
    pq.write_table(
        pa.table({"image": pa.array([b"abc", None], pa.binary(3))}), folder / "t.parquet"
    )
    assert [result for _, _, result in read(planned(folder / "t.parquet"))] == [b"abc", "empty"]


def test_of_two_columns_of_images_the_named_one_is_read(folder):
    """--uri-column chooses among columns of images, too; within one job each table keeps its own."""
    path = folder / "t.parquet"
    pq.write_table(pa.table({"bytes": [b"1", b"2"], "photo": [b"3", b"4"]}), path)
    one, two = planned(path), planned(path, uri_column="photo")
    assert [result for _, _, result in read(pa.concat_tables([one, two, one]))] == [
        *(b"1", b"2"),
        *(b"3", b"4"),
        *(b"1", b"2"),
    ]


def test_images_that_are_elsewhere(folder):
    """A column of bytes and paths without any bytes names files, as `datasets` writes it by default."""
    structs = [{"bytes": None, "path": str(folder / name)} for name in FILES]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(structs, kind)}), folder / "t.parquet")
    assert read(planned(folder / "t.parquet")) == RIGHT


@pytest.mark.parametrize("column", [pa.string(), pa.binary()], ids=["uri", "bytes"])
def test_a_table_without_rows(folder, column):
    """It holds no image, beside others it is just empty."""
    name = "uri" if column == pa.string() else "bytes"
    empty = folder / "empty.parquet"
    pq.write_table(
        pa.table({name: pa.array([], column), "label": pa.array([], pa.string())}), empty
    )
    with pytest.raises(UserInputError, match="no images in it"):
        planned(empty)


def test_numbers_of_bytes_are_no_images(folder):
    """A column `bytes` that is no binary, beside one of URIs, is a column like others."""
    table = pa.table({"uri": list(FILES), "bytes": [1, 2, 3, 4]})
    pq.write_table(table, folder / "t.parquet")
    assert read(planned(folder / "t.parquet")) == RIGHT


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["cat", "cat", "dog", "dog"]).dictionary_encode(),
        pa.array(["cat", " cat ", "dog", "dog\n"], pa.large_string()),
        pa.array([b"cat", b"cat", b"dog", b"dog"]),
        pytest.param(pa.array(["cat", "cat", "dog", "dog"], pa.string_view()), marks=VIEWS),
    ],
    ids=lambda column: str(column.type)[:40],
)
def test_labels_of_many_types(folder, labels):
    """Text in every storage gives the same labels."""
    pq.write_table(pa.table({"uri": list(FILES), "label": labels}), folder / "t.parquet")
    assert read(planned(folder / "t.parquet")) == RIGHT


def test_names_of_classes(folder):
    """Numbers of classes have the names that `datasets` keeps beside them; others stay numbers."""
    told = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"uri": list(FILES), "label": [0, 0, 1, 1]})
    pq.write_table(table, folder / "plain.parquet")
    metadata = {b"huggingface": json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "named.parquet")
    assert planned(folder / "plain.parquet")["label"].to_pylist() == ["0", "0", "1", "1"]
    assert read(planned(folder / "named.parquet")) == RIGHT


FLOATS = [0.0, float("nan"), 1.0, None]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "dictionary", "jsonl", "pandas"])
def test_labels_that_are_floats(folder, kind):
    """Whole ones number classes, NaN is none: pandas makes floats where a label is missing."""
    given = folder / "t.parquet"
    if kind == "jsonl":
        given = folder / "t.jsonl"
        rows = [{"uri": uri, "label": label} for uri, label in zip(FILES, FLOATS, strict=True)]
        given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        labels = pa.array(FLOATS, pa.float64())
        if kind == "dictionary":
            labels = labels.dictionary_encode()
        elif kind == "pandas":
            pandas = pytest.importorskip("pandas")
            labels = pa.array(pandas.Series(FLOATS))
        else:
            labels = labels.cast(getattr(pa, kind)())
        pq.write_table(pa.table({"uri": list(FILES), "label": labels}), given)
    rows = planned(given).to_pylist()
    # Where the table says nothing, the folder does.
    assert [row["label"] for row in rows] == ["0", "cat", "1", "dog"]
    assert {row["error"] for row in rows} == {None}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_floats_that_number_no_class(folder, kind):
    """They cost their rows."""
    labels = [0.5, float("inf"), -1e308, 2.0]
    if kind == "jsonl":
        rows = [{"uri": uri, "label": label} for uri, label in zip(FILES, labels, strict=True)]
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({"uri": list(FILES), "label": labels}), folder / "t.parquet")
    rows = planned(folder / f"t.{kind}").to_pylist()
    assert [row["error"] for row in rows][:2] == ["unreadable"] * 2
    assert rows[3]["label"] == "2"
    assert "not the number of a class" in rows[0]["error_detail"]


def test_names_of_classes_that_are_floats(folder):
    """Names of classes count for them too."""
    told = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"uri": list(FILES), "label": [0.0, 0.0, 1.0, 1.0]})
    metadata = {b"huggingface": json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "t.parquet")
    assert read(planned(folder / "t.parquet")) == RIGHT


def test_floats_name_no_image(folder):
    """A column of URIs is of text."""
    pq.write_table(pa.table({"uri": [1.0, 2.0]}), folder / "t.parquet")
    with pytest.raises(UserInputError, match="its column uri is double, not text"):
        planned(folder / "t.parquet")


def not_utf8(texts):
    """A column of strings whose bytes are these."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "txt"])
@pytest.mark.parametrize("where", ["uri", "label"])
def test_values_that_are_not_utf8(folder, kind, where):
    """A URI or a label that is not UTF-8 costs its row, and no neighbour."""
    rows = [b"cat/0.jpg", b"caf\xe9/x.jpg", b"dog/1.jpg"]
    labels = [b"cat", b"caf\xe9", b"dog"]
    if where == "label":
        rows[1] = b"cat/1.jpg"
    else:
        labels[1] = b"cat"
    path = folder / f"t.{kind}"
    match kind:
        case "txt":
            path.write_bytes(b"\n".join([rows[0], b"caf\xe9/x.jpg", rows[2]]))
        case "jsonl":
            line = b'{"uri": "%s", "label": "%s"}\n'
            path.write_bytes(b"".join(line % pair for pair in zip(rows, labels, strict=True)))
        case "parquet":
            pq.write_table(pa.table({"uri": not_utf8(rows), "label": not_utf8(labels)}), path)
        case _:
            comma = b"," if kind == "csv" else b"\t"
            lines = [comma.join(pair) for pair in zip(rows, labels, strict=True)]
            path.write_bytes(b"\n".join([comma.join([b"uri", b"label"]), *lines]))
    first, wrong, last = read(planned(path))
    assert (first, last) == (RIGHT[0], RIGHT[3])
    assert wrong[2] == "unreadable"


def test_images_whose_label_is_not_utf8(folder):
    """In a table of images likewise, and a URI that is not UTF-8 leaves the row its number."""
    columns = {
        "bytes": [b"1", b"2"],
        "label": not_utf8([b"\xff", b"dog"]),
        "uri": not_utf8([b"a", b"\xff"]),
    }
    pq.write_table(pa.table(columns), folder / "t.parquet")
    table = planned(folder / "t.parquet")
    assert table["uri"].to_pylist() == ["a", f"parquet://1::file://{folder}/t.parquet"]
    assert [result for _, _, result in read(table)] == ["unreadable", b"2"]


LONG = "x" * 70_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", f"uri,label\ncat/0.jpg,cat\n{LONG},cat\ndog/1.jpg,dog\n"),
        ("t.csv", f'uri,label\ncat/0.jpg,cat\nx,"{LONG}"\ndog/1.jpg,dog\n'),
        ("t.tsv", f"uri\tlabel\ncat/0.jpg\tcat\n{LONG}\tcat\ndog/1.jpg\tdog\n"),
        ("t.csv", "uri,label\ncat/0.jpg,cat\n,cat\ndog/1.jpg,dog\n"),
        ("t.csv", "uri,label\ncat/0.jpg,cat\n\n  \n,,\nx,a\0b\ndog/1.jpg,dog\n"),
        ("t.jsonl", f'{{"uri": "cat/0.jpg"}}\n{{"uri": "{LONG}"}}\n{{"uri": "dog/1.jpg"}}\n'),
        ("t.jsonl", '{"uri": "cat/0.jpg"}\n{"uri": \n{"uri": "dog/1.jpg"}\n'),
        ("t.jsonl", '{"uri": "cat/0.jpg"}\n[1]\n{"uri": "dog/1.jpg"}\n'),
        ("t.jsonl", '{"uri": "cat/0.jpg"}\n{"uri": ["x"]}\n{"uri": "dog/1.jpg"}\n'),
        ("t.jsonl", '{"uri": "cat/0.jpg"}\n{"uri": "\\ud800"}\n{"uri": "dog/1.jpg"}\n'),
        ("t.jsonl", '{"uri": "cat/0.jpg"}\n{"uri": "x", "label": []}\n{"uri": "dog/1.jpg"}\n'),
        ("l.txt", f"cat/0.jpg\n{LONG}\ndog/1.jpg\n"),
        ("l.txt", "cat/0.jpg\nx\0y\ndog/1.jpg\n"),
    ],
)
def test_lines_at_fault(folder, name, text):
    """A line that is too long, damaged or without a URI costs one row, and the next one is read."""
    table = planned(table_as(folder, name, text.encode()))
    first, wrong, last = read(table)
    assert (first, last) == (RIGHT[0], RIGHT[3])
    assert wrong[2] in {"unreadable", "missing"}


def test_each_line_at_fault_is_a_row(folder):
    """Two lines with the same fault are two rows, that tell the lines."""
    table = planned(table_as(folder, "t.csv", b"uri,label\n,a\ncat/0.jpg,cat\n,b\n"))
    assert [uri.partition("#")[2] for uri in table["uri"].to_pylist()] == ["line=2", "", "line=4"]
    assert table["error_detail"].to_pylist() == [
        "Line 2 of the table has no URI.",
        None,
        "Line 4 of the table has no URI.",
    ]


@pytest.mark.parametrize("open_in", ["uri", "label", "note"])
def test_a_quote_that_is_not_closed(folder, open_in):
    """What it swallows is told with its lines, wherever it stands."""
    values = [
        f'"{v}' if name == open_in else v
        for name, v in (("uri", "x"), ("label", "y"), ("note", "z"))
    ]
    text = f"uri,label,note\ncat/0.jpg,cat,\n{','.join(values)}\ndog/1.jpg,dog,\n"
    table = planned(table_as(folder, "t.csv", text.encode()))
    assert table["error_detail"].to_pylist() == [
        None,
        "Lines 3 to 4 of the table are damaged: is a quote not closed?",
    ]


@pytest.mark.parametrize("start", ["\r\n", "sep=;\r\n", '"sep=;"\n', " \n\nsep=;\n\n"])
def test_what_stands_before_the_header(folder, start):
    """Empty lines and Excel's line about its delimiter are no header."""
    text = start + TEXT.replace(",", ";")
    assert read(planned(table_as(folder, "t.csv", text.encode()))) == RIGHT
    with pytest.raises(UserInputError, match="no column uri"):
        planned(table_as(folder, "t.csv", start.encode()))


def test_images_in_json_as_datasets_writes_them(folder):
    """A path in an object; bytes there are none, and no path where there are any."""
    lines = ['{"image": {"bytes": null, "path": "cat/0.jpg"}, "label": "cat"}']
    lines += ['{"image": {"bytes": "aGVsbG8=", "path": "cat/0.jpg"}}', '{"image": {"path": 7}}']
    found = planned(table_as(folder, "t.jsonl", "\n".join(lines).encode()))
    assert read(found)[:1] == [RIGHT[0]]
    assert found["error"].to_pylist() == [None, "unreadable", "unreadable"]


def test_a_folder_without_its_final_slash(folder):
    """In a list it is a row that says how to name it."""
    (folder / "l.txt").write_text("cat\n")
    (found,) = read_images(planned(folder / "l.txt"), LIMITS, threads=1)
    assert "name it with a final /" in found.detail


def test_values_of_several_lines(folder):
    """A note of two lines is a value like others."""
    text = 'uri,label,note\ncat/0.jpg,cat,"a\nb, ""c"""\ndog/1.jpg,dog,\n'
    assert read(planned(table_as(folder, "t.csv", text.encode()))) == [RIGHT[0], RIGHT[3]]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("long", [b"uri," + b"x" * 70_000, b'uri,"' + (b"x" * 9_000 + b"\n") * 8])
def test_a_first_line_that_is_too_long(folder, name, long):
    """Without the names of its columns a table is refused in a line that names it."""
    long = long.replace(b",", b"\t") if name == "t.tsv" else long
    table = table_as(folder, name, long + b"\ncat/0.jpg,a\n")
    with pytest.raises(UserInputError, match=rf"{name}: its first line has more than 65,536"):
        planned(table)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
@pytest.mark.parametrize("names", [["a\nb", "uri", "label"], ["uri", 'a ""b""\n\nc', "label"]])
def test_names_of_several_lines(folder, names, between, end):
    """A spreadsheet puts names of columns on several lines, in quotes; they cost no row."""
    header = between.join(f'"{name}"' for name in names)
    values = [{"uri": "cat/0.jpg", "label": "cat"}.get(name, "x") for name in names]
    text = f"{header}\n{between.join(values)}\n".replace("\n", end)
    assert read(planned(table_as(folder, "t.csv", text.encode()))) == [RIGHT[0]]


@pytest.mark.parametrize("rows", [1, 30_000])
def test_names_without_a_closing_quote(folder, rows):
    """A quote among the names that is not closed is told, since it would swallow the rows."""
    with pytest.raises(UserInputError, match="a quote in the names of its columns is not closed"):
        planned(table_as(folder, "t.csv", b'uri,"label\n' + b"1\n" * rows))


def test_names_that_steer_a_terminal_are_spelled_out(folder):
    """A refusal lists the columns found, in one line whatever their names are."""
    with pytest.raises(UserInputError, match=r"it has the columns a\\x1b\[2J\\nb, c; name"):
        planned(table_as(folder, "t.csv", b'"a\x1b[2J\nb",c\n1,2\n'))


def test_damaged_texts(folder):
    """A gzip file or UTF-16 text that is cut gives what stands before the damage, and a row."""
    lines = TEXT.encode() + b"x,y\n" * 100_000
    whole = gzip.compress(lines, 0)
    table = planned(table_as(folder, "t.csv.gz", whole[: len(whole) // 2]))
    assert read(table)[:4] == RIGHT
    assert table["error"].to_pylist()[-1] == "truncated"
    table = planned(table_as(folder, "t.csv", TEXT.encode("utf-16")[:-1]))
    assert read(table)[:3] == RIGHT[:3]
    assert table["error"].to_pylist()[-1] == "unreadable"


@pytest.mark.parametrize("row", ["9" * 18, "9" * 19, "9" * 5000, "-1", "one", "\u0663", ""])
def test_rows_of_tables_that_are_none(folder, row):
    """Whatever a list writes for a table's row, it costs its own line."""
    pq.write_table(pa.table({"bytes": [b"0"]}), folder / "t.parquet")
    (folder / "l.txt").write_text(f"parquet://{row}::t.parquet\nparquet://0::t.parquet\n")
    (_, _, wrong), (_, _, right) = read(planned(folder / "l.txt"))
    assert wrong in {"missing", "unsupported"}
    assert right == b"0"


@pytest.mark.parametrize(
    "line",
    [
        "file://",
        "file:///",
        "FILE://",
        "/",
        "//",
        "/.",
        "file://localhost",
        "file:///a/..",
        "s3://",
        "s3://bucket",
        "file:/",
        "s3:/b/x.jpg",
        "local://",
    ],
)
def test_a_word_cut_short_walks_no_disk(folder, line):
    """What is left of a URI or a path, and names all that the machine has, is a row with an error."""
    table = planned(table_as(folder, "l.txt", f"cat/0.jpg\n{line}\ndog/1.jpg\n".encode()))
    assert table["error"].to_pylist() == [None, "unsupported", None]
    table = planned(table_as(folder, "t.csv", f"uri\n{line}\ndog/1.jpg\n".encode()))
    assert table["error"].to_pylist() == ["unsupported", None]


def test_a_walk_out_of_the_lists_folder_is_told(folder, caplog):
    """A list may lead to another folder, and says where it went."""
    (folder / "lists").mkdir()
    with caplog.at_level("WARNING"):
        table = planned(table_as(folder, "lists/l.txt", b"../cat/\n./\n"))
        assert [result for _, _, result in read(table)][:2] == [
            FILES["cat/0.jpg"],
            FILES["cat/1.jpg"],
        ]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith(f"file://{folder}/cat")


@pytest.mark.parametrize(
    "line",
    [r"cat\0.jpg", r"C:\photos\0.jpg", "c:/photos/0.jpg", r"\\nas\photos\0.jpg", r"..\x.jpg"],
)
def test_windows_paths(folder, line):
    """They are said to be such: a row, and no neighbour is lost; on the command line in the refusal."""
    table = planned(table_as(folder, "l.txt", f"cat/0.jpg\r\n{line}\r\n".encode()))
    assert table["error"].to_pylist() == [None, "unsupported"]
    assert "a path of Windows" in table["error_detail"][1].as_py()
    with pytest.raises(UserInputError, match="a path of Windows"):
        planned(line)


def test_backslashes_in_names(folder):
    """A file here that is called so is no Windows path."""
    (folder / r"cat\0.jpg").write_bytes(b"odd")
    table = planned(table_as(folder, "l.txt", b"cat\\0.jpg\n"))
    assert [result for _, _, result in read(table)] == [b"odd"]


def test_quotes_and_spaces_in_lists(folder):
    """Spaces around a line and quotes count for nothing; within quotes spaces belong to the name."""
    (folder / " x.jpg ").write_bytes(b"spaces")
    text = '"cat/0.jpg"\n  cat/1.jpg \t\n" x.jpg "\n "dog/0.jpg" \n"\n'
    results = [result for _, _, result in read(planned(table_as(folder, "l.txt", text.encode())))]
    assert results == [
        *(FILES[n] for n in ("cat/0.jpg", "cat/1.jpg")),
        b"spaces",
        FILES["dog/0.jpg"],
        "missing",
    ]


def test_tables_by_glob(folder):
    """Globs over tables open each of them."""
    for name in ("a.tsv", "b.tsv"):
        table_as(
            folder,
            name,
            b"path\tlabel\ncat/0.jpg\tcat\n" if name == "a.tsv" else b"uri\ndog/1.jpg\n",
        )
    assert read(planned(folder / "*.tsv")) == [RIGHT[0], RIGHT[3]]


def test_tables_in_folders_are_no_images(folder):
    """Compressed or not, they are passed over while walking."""
    for name in ("t.csv.gz", "t.jsonl", "t.tsv", "l.txt.gz"):
        table_as(folder, name, gzip.compress(TEXT.encode()))
    assert read(planned(folder)) == RIGHT
