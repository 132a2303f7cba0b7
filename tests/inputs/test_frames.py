"""Tables that a program has in memory: of pyarrow, pandas and Polars, of paths and of images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import ImageRejected, UserInputError
from catdog.inputs import (
    PLAN_SCHEMA,
    Columns,
    SourceLimits,
    is_frame,
    list_images,
    read_images,
    store_frame,
)

LIMITS = SourceLimits()
KINDS = {
    "pyarrow": pa.table,
    "batch": pa.RecordBatch.from_pydict,
    "pandas": pd.DataFrame,
    "Polars": pl.DataFrame,
    "reader": lambda data: pa.table(data).to_reader(1),
    "chunks": lambda data: pa.concat_tables(pa.table(data).slice(at, 1) for at in range(2)),
}


def read(frame, output, **columns):
    """Name, label and bytes (or why not) of each row of a stored frame."""
    assert is_frame(frame)
    uri, _ = store_frame(frame, Columns(**columns), f"file://{output}")
    table = pa.Table.from_batches(list_images([uri], LIMITS, Columns(**columns)), PLAN_SCHEMA)
    results = [
        r.code.value if isinstance(r, ImageRejected) else r for r in read_images(table, LIMITS, 2)
    ]
    return list(zip(table["uri"].to_pylist(), table["label"].to_pylist(), results, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_paths(tmp_path, kind, monkeypatch):
    """Relative ones start from the current folder, as for a command; others are as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "cat" / name).write_bytes(name.encode())
    frame = KINDS[kind]({"path": ["cat/1.jpg", f"{tmp_path}/cat/2.jpg"], "label": ["a", "b"]})
    assert read(frame, tmp_path / "out") == [
        (f"file://{tmp_path}/cat/1.jpg", "a", b"1.jpg"),
        (f"file://{tmp_path}/cat/2.jpg", "b", b"2.jpg"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_user_called_them(tmp_path, kind, monkeypatch):
    """Results show the frame's own texts, as of a list; what opens stands beside them."""
    monkeypatch.chdir(tmp_path)
    texts = ["cat/1.jpg", "./2.jpg", f"{tmp_path}/3.jpg", "s3://b1/4.jpg"]
    uri, _ = store_frame(KINDS[kind]({"path": texts[:2]}), Columns(), f"file://{tmp_path}/out")
    if kind != "chunks":  # which has two rows
        frame = KINDS[kind]({"path": texts})
        uri, _ = store_frame(frame, Columns(), f"file://{tmp_path}/out")
    monkeypatch.chdir("/")  # whoever reads it stands elsewhere
    rows = [row for batch in list_images([uri], LIMITS) for row in batch.to_pylist()]
    assert [row["given"] or row["uri"] for row in rows] == texts[: len(rows)]
    base = f"file://{tmp_path}"
    expected = [f"{base}/cat/1.jpg", f"{base}/2.jpg", f"{base}/3.jpg", "s3://b1/4.jpg"]
    assert [row["uri"] for row in rows] == expected[: len(rows)]
    assert [row["label"] for row in rows][:2] == ["cat", None]


@pytest.mark.parametrize("kind", KINDS)
def test_images(tmp_path, kind):
    """Bytes in a column are read from the file that was written; its row is named by its number."""
    frame = KINDS[kind]({"photo": [b"1", b"2"], "Kind": ["a", "b"]})
    rows = read(frame, tmp_path, uri_column="photo", label_column="kind")
    assert [row[1:] for row in rows] == [("a", b"1"), ("b", b"2")]
    assert all(f"::file://{tmp_path}/_given/" in uri for uri, _, _ in rows)


def test_images_in_structs(tmp_path):
    """Polars has views within structs and lists too, which not every pyarrow can write."""
    image = [{"bytes": b"1", "path": "1.jpg"}, {"bytes": b"2", "path": None}]
    frame = pl.DataFrame({"image": image, "label": ["a", "b"], "tags": [["x"], []]})
    assert [row[1:] for row in read(frame, tmp_path)] == [("a", b"1"), ("b", b"2")]


def test_images_that_are_elsewhere(tmp_path, monkeypatch):
    """Bytes and paths without bytes are the files at the paths, below the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"one")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name in ("image", "photo"):
        frame = pa.table({name: pa.array([{"bytes": None, "path": "1.jpg"}], kind), "uri": ["x"]})
        assert read(frame, tmp_path / "out")[0][2] == b"one"


def test_the_file_follows_from_the_content(tmp_path):
    """The same rows are the same file, whatever holds them; others are another one."""
    data = {"uri": ["s3://b/1.jpg", "s3://b/2.jpg"], "n": [1, 2]}
    uris = {
        store_frame(KINDS[kind](data), Columns(), f"file://{tmp_path}")
        for kind in ("pyarrow", "chunks", "reader")
    }
    assert len({uri for uri, _ in uris}) == 1
    assert sorted(new for _, new in uris) == [False, True]
    other, new = store_frame(pa.table(data | {"n": [1, 3]}), Columns(), f"file://{tmp_path}")
    assert new
    assert other not in {uri for uri, _ in uris}


def test_paths_in_a_frame(tmp_path, monkeypatch):
    """`pathlib` has them, and glob gives them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    frame = pd.DataFrame({"path": [Path("a.jpg"), tmp_path / "a.jpg", None]})
    uri, _ = store_frame(frame, Columns(), f"file://{tmp_path}")
    (batch,) = list_images([uri], SourceLimits(), once=False)
    assert batch.column("uri").to_pylist()[:2] == [f"file://{tmp_path}/a.jpg"] * 2
    assert batch.column("error").to_pylist() == [None, None, "unreadable"]


def test_a_column_that_arrow_does_not_know_is_left_out(tmp_path, caplog):
    """It costs nothing else, and is told."""
    columns = {"uri": ["a.jpg", "b.jpg"], "x": [1, "two"], "y": [object(), None], "label": [1, 2]}
    with caplog.at_level("WARNING"):
        uri, _ = store_frame(pd.DataFrame(columns), Columns(), f"file://{tmp_path}")
    assert pq.read_schema(uri.removeprefix("file://")).names == ["uri", "label"]
    assert caplog.text.count("is left out") == 2


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["cat", "dog"]), pl.String])
def test_labels_of_polars(tmp_path, kind):
    """Whatever Polars keeps them as."""
    frame = pl.DataFrame(
        {"uri": ["a", "b", "c"], "label": pl.Series(["cat", "dog", None], dtype=kind)}
    )
    uri, _ = store_frame(frame, Columns(), f"file://{tmp_path}")
    (batch,) = list_images([uri], SourceLimits())
    assert batch.column("label").to_pylist() == ["cat", "dog", None]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pa.table({"a": [1]}), "images: there is no column uri; it has the columns a"),
        (
            pd.DataFrame({"path": [1], "url": [2]}),
            "its columns path and url may all name the images",
        ),
        (pd.DataFrame({"uri": [object()]}), "images: there is no column uri"),
        (
            pd.DataFrame([["a", "b"]], columns=["uri", "uri"]),
            "two of its columns have the same name",
        ),
    ],
)
def test_frames_without_images(tmp_path, frame, said):
    """They are refused in one line, and nothing is written."""
    with pytest.raises(UserInputError) as caught:
        store_frame(frame, Columns(), f"file://{tmp_path}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "images",
    [
        "a",
        ["a"],
        ("a",),
        {"uri": ["a"]},
        pd.Series(["a"]),
        pl.Series(["a"]),
        pa.array(["a"]),
        None,
        b"a",
    ],
    ids=str,
)
def test_what_is_no_frame(images):
    """Paths, and columns alone, are not."""
    assert not is_frame(images)
