"""Columns that stand beside the images go with them: WebDataset's members, image folders' tables."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import inputs
from catdog.errors import UserInputError
from catdog.inputs import KEPT, Columns, SourceLimits

LIMITS = SourceLimits()


def listed(*given, keep, **columns):
    """What is kept, by name."""
    texts = [str(each) for each in given]
    kind = inputs.kept_type(texts, keep, LIMITS, Columns(**columns))
    batches = inputs.list_images(texts, LIMITS, Columns(**columns), once=False, keep=kind)
    rows = pa.Table.from_batches(batches).to_pylist()
    return {row["name"]: row[KEPT] for row in rows}


def shard(path, files):
    """An archive of these files."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as z:
            for name, data in files.items():
                z.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


FILES = {
    "x/cat/0.txt": b"eine Katze",
    "x/cat/0.jpg": b"x",
    "x/cat/0.json": b'{"id": 7}',
    "x/dog/0.left.png": b"x",
    "x/dog/0.txt": b"dogs\nof two lines",
    "x/dog/0.right.png": b"x",
    "x/dog/1.jpg": b"x",
}


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("place", [".", "in"])
def test_texts_of_samples(tmp_path, kind, place):
    """Each image has the texts of its sample, wherever in the archive they lie; null where none is."""
    path = shard(tmp_path / place / kind, FILES)
    found = listed(path, keep=["txt", "json"])
    assert found == {
        "cat/0.jpg": {"txt": "eine Katze", "json": '{"id": 7}'},
        "dog/0.left.png": {"txt": "dogs\nof two lines", "json": None},
        "dog/0.right.png": {"txt": "dogs\nof two lines", "json": None},
        "dog/1.jpg": {"txt": None, "json": None},
    }
    assert (
        listed(path.parent / kind.replace("a.", "?."), path, keep=["json"]).keys() == found.keys()
    )


def test_a_label_and_a_column_at_once(tmp_path):
    """One member may be both."""
    path = shard(tmp_path / "a.tar", {"0.jpg": b"x", "0.json": b'{"kind": "cat"}'})
    columns = Columns(label_from="json:kind")
    kind = inputs.kept_type([str(path)], ["json"], LIMITS, columns)
    (batch,) = inputs.list_images([str(path)], LIMITS, columns, keep=kind)
    assert batch.column("label").to_pylist() == ["cat"]
    assert batch.column(KEPT).to_pylist() == [{"json": '{"kind": "cat"}'}]


@pytest.mark.parametrize("content", [b"\xff", b"x" * ((1 << 20) + 1)])
def test_what_is_no_text_is_not_kept(tmp_path, content, caplog):
    """It is null, and told; the image is as it was."""
    path = shard(tmp_path / "a.tar", {"0.jpg": b"x", "0.txt": content, "1.jpg": b"x"})
    with caplog.at_level("WARNING"):
        assert listed(path, keep=["txt"]) == {"0.jpg": {"txt": None}, "1.jpg": {"txt": None}}
    assert "0.txt is not kept: it is not a text of at most one MiB" in caplog.text


def test_texts_without_bound_are_refused(tmp_path, monkeypatch):
    """They are in memory until the archive is read."""
    monkeypatch.setattr("catdog.inputs.kept_beside._MOST_BYTES", 10)
    path = shard(tmp_path / "a.tar", {"0.jpg": b"x", "0.txt": b"12345678901"})
    with pytest.raises(UserInputError, match="larger than one GiB"):
        listed(path, keep=["txt"])


@pytest.mark.parametrize("place", ["", "train/"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_of_an_image_folder(tmp_path, place, kind):
    """Those of `metadata.csv`, `.jsonl` or `.parquet`, by `file_name`; null for an image not named."""
    folder = tmp_path / (place or ".")
    (folder / "cat").mkdir(parents=True)
    for name in ("0.jpg", "cat/1.jpg", "2.jpg"):
        (folder / name).write_bytes(b"x")
    rows = [("0.jpg", "lynx", "7"), ("cat/1.jpg", "cat", "8"), ("gone.jpg", "cat", "9")]
    if kind == "csv":
        text = "file_name,label,shelf\n" + "".join(",".join(row) + "\n" for row in rows)
    else:
        named = (dict(zip(("file_name", "label", "shelf"), row, strict=True)) for row in rows)
        text = "".join(json.dumps(row) + "\n" for row in named)
    (folder / f"metadata.{kind}").write_text(text)
    if kind == "parquet":
        columns = zip(
            ("file_name", "label", "shelf"), map(list, zip(*rows, strict=True)), strict=True
        )
        pq.write_table(pa.table(dict(columns)), folder / "metadata.parquet")
    found = listed(tmp_path, keep=["shelf"])
    assert found == {
        f"{place}0.jpg": {"shelf": "7"},
        f"{place}cat/1.jpg": {"shelf": "8"},
        f"{place}2.jpg": None,
    }
    assert listed(tmp_path, keep=["all"])[f"{place}0.jpg"] == {"label": "lynx", "shelf": "7"}


def test_a_folder_beside_a_table_and_an_archive(tmp_path):
    """Each input gives what it has of a column."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "0.jpg").write_bytes(b"x")
    (tmp_path / "f" / "metadata.csv").write_text("file_name,txt\n0.jpg,of the folder\n")
    (tmp_path / "t.csv").write_text("uri,txt\nf/1.jpg,of the table\n")
    archive = shard(tmp_path / "a.tar", {"2.jpg": b"x", "2.txt": b"of the archive"})
    assert listed(tmp_path / "f", tmp_path / "t.csv", archive, keep=["txt"]) == {
        "0.jpg": {"txt": "of the folder"},
        "f/1.jpg": {"txt": "of the table"},
        "2.jpg": {"txt": "of the archive"},
    }


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", "file_name\n0.jpg\n"])
def test_a_table_about_something_else(tmp_path, text):
    """A `metadata.csv` without the column, or without names of files, has nothing to keep."""
    (tmp_path / "0.jpg").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserInputError, match="no table among the inputs has such a column"):
        listed(tmp_path, keep=["shelf"])
