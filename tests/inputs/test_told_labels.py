"""Labels that files beside the images tell: in WebDataset's shards, in Hugging Face's image folders."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import UserInputError
from catdog.inputs import PLAN_SCHEMA, Columns, Skips, SourceLimits, list_images
from catdog.training.labelled import list_labelled

LIMITS = SourceLimits()
KINDS = ["tar", "tar.gz", "zip"]


def archive(path, files):
    """An archive of these files, in this order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in files.items():
                zipped.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith(".gz") else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def planned(given, label_from=None, **columns):
    """Label (or error) by name."""
    batches = list_images([str(given)], LIMITS, Columns(label_from=label_from, **columns))
    rows = pa.Table.from_batches(batches, PLAN_SCHEMA).to_pylist()
    return {row["name"]: row["error"] or row["label"] for row in rows}


SAMPLES = {
    "a/0.left.jpg": b"x",
    "a/0.cls": b"3\n",
    "a/0.json": json.dumps({"species": "lynx", "seen": 2, "sure": True, "box": [1]}).encode(),
    "a/0.right.jpg": b"x",
    "a/0.txt": b" a lynx ",
    "b/0.jpg": b"x",
    "b/0.CLS": b"4",
    "b/0.json": b'{"species": "cat", "seen": 1, "sure": false}',
    "b/0.txt": b"\xef\xbb\xbfcat\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [list, reversed], ids=["written", "reversed"])
@pytest.mark.parametrize(
    ("label_from", "labels"),
    [
        ("cls", ["3", "4"]),
        ("txt", ["a lynx", "cat"]),
        ("json:species", ["lynx", "cat"]),
        ("json:seen", ["2", "1"]),
        ("json:sure", ["true", "false"]),
        (None, ["a", "b"]),
    ],
)
def test_samples(tmp_path, kind, order, label_from, labels):
    """All images of a sample have its label, wherever in the archive it lies."""
    path = archive(tmp_path / f"x.{kind}", {name: SAMPLES[name] for name in order(list(SAMPLES))})
    found = planned(path, label_from)
    one, other = labels
    assert found == {"a/0.left.jpg": one, "a/0.right.jpg": one, "b/0.jpg": other}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_a_folder_around_everything(tmp_path, kind):
    """Names lose the folder that all images share, and keep their labels."""
    files = {f"shard/{name}": data for name, data in SAMPLES.items()}
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in" / f"x.{kind}", files)
    found = planned(tmp_path, "cls")
    assert found == {"in/a/0.left.jpg": "3", "in/a/0.right.jpg": "3", "in/b/0.jpg": "4"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "label_from"),
    [
        (b"\xff\xfe\xff", "cls"),
        (b"", "cls"),
        (b"two\nlines", "txt"),
        (b"x" * 300, "txt"),
        (b"x" * (2 << 20), "txt"),
        (b"{", "json:species"),
        (b"[1]", "json:species"),
        (b'{"kind": 1}', "json:species"),
        (b'{"species": [1]}', "json:species"),
        (b'{"species": "\\ud800"}', "json:species"),
        (b"[" * 100_000, "json:species"),
    ],
)
def test_a_label_at_fault_costs_its_own_sample(tmp_path, kind, content, label_from):
    """Its images are rows `unreadable`; the next sample has its label."""
    extension = label_from.partition(":")[0]
    files = {"0.jpg": b"x", f"0.{extension}": content, "1.jpg": b"x"}
    files[f"1.{extension}"] = b'{"species": "cat"}' if extension == "json" else b"cat"
    found = planned(archive(tmp_path / f"x.{kind}", files), label_from)
    assert found == {"0.jpg": "unreadable", "1.jpg": "cat"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_a_label(tmp_path, kind):
    """It has none, its folder's neither; training names it."""
    path = archive(
        tmp_path / f"x.{kind}", {"cat/0.jpg": b"x", "cat/1.jpg": b"x", "cat/1.cls": b"c"}
    )
    assert planned(path, "cls") == {"cat/0.jpg": None, "cat/1.jpg": "c"}
    with pytest.raises(UserInputError, match=r"1 image without a label, such as 'cat/0\.jpg'"):
        list_labelled([str(path)], LIMITS, Columns(label_from="cls"), validation=0.1, test=0)


def test_the_last_of_two_labels_counts(tmp_path):
    """As of two members of one name."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.writestr("0.cls", "cat")
        zipped.writestr("0.jpg", "x")
        with pytest.warns(UserWarning, match="Duplicate"):
            zipped.writestr("0.cls", "dog")
    assert planned(tmp_path / "x.zip", "cls") == {"0.jpg": "dog"}


def test_labels_are_not_passed_over(tmp_path):
    """What is read is not counted as passed over; without the flag it is."""
    path = archive(tmp_path / "x.tar", {"0.jpg": b"x", "0.cls": b"cat", "0.json": b"{}"})
    for label_from, counts in (("cls", {".json": 1}), (None, {".cls": 1, ".json": 1})):
        skips = Skips()
        list(list_images([str(path)], LIMITS, Columns(label_from=label_from), skips))
        assert skips.counts() == counts


@pytest.mark.parametrize("text", ["json", "json:", "cls:x", "jpg", "", "CLS"])
def test_other_places_are_refused(text):
    """In one line that says what there is."""
    if text:
        with pytest.raises(UserInputError, match="--label-from"):
            Columns(label_from=text)


def test_shards_on_s3(s3, tmp_path):
    """Labels are read from a store as from a disk."""
    from catdog import storage

    for kind in KINDS:
        path = archive(tmp_path / f"x.{kind}", SAMPLES)
        storage.write_atomic(f"{s3}/{path.name}", path.read_bytes())
        assert planned(f"{s3}/{path.name}", "cls") == planned(path, "cls")


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


TABLES = {
    "metadata.csv": "file_name,label,text\n{0},lynx,a\n{1},cat,b\n",
    "metadata.jsonl": '{{"file_name": "{0}", "label": "lynx"}}\n{{"file_name": "./{1}", "label": "cat"}}\n',
}


def write_table(path, *names):
    """The table beside the images, of this kind: the first is a lynx, the second a cat."""
    if path.suffix == ".parquet":
        table = pa.table({"file_name": list(names), "label": ["lynx", "cat"]})
        pq.write_table(table, path)
    else:
        path.write_text(TABLES[path.name].format(*names))


@pytest.mark.parametrize("table", [*TABLES, "metadata.parquet"])
def test_image_folders(tmp_path, table):
    """The table beside the images gives their labels; what it does not name keeps its folder's."""
    put(tmp_path, "0.jpg", "deep/er/1.jpg", "other/2.jpg")
    write_table(tmp_path / table, "0.jpg", "deep/er/1.jpg")
    found = planned(tmp_path)
    assert found == {"0.jpg": "lynx", "deep/er/1.jpg": "cat", "other/2.jpg": "other"}


@pytest.mark.parametrize("table", [*TABLES, "metadata.parquet"])
def test_image_folders_with_parts(tmp_path, table):
    """Each part has its table; the parts are the parts, and the labels the tables'."""
    for part in ("train", "validation", "test"):
        put(tmp_path, *(f"{part}/{number}.jpg" for number in range(2)))
        write_table(tmp_path / part / table, "0.jpg", "1.jpg")
    found = list_labelled([str(tmp_path)], LIMITS, validation=0.1, test=0.1)
    assert found.labels == ("cat", "lynx")
    assert found.parts_given
    assert sorted(found.parts.tolist()) == [0, 0, 1, 1, 2, 2]


def test_image_folders_of_other_columns(tmp_path):
    """`--label-column` names another one; without a column of labels a table tells nothing."""
    put(tmp_path, "cat/0.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,species\ncat/0.jpg,lynx\n")
    assert planned(tmp_path) == {"cat/0.jpg": "cat"}
    assert planned(tmp_path, label_column="species") == {"cat/0.jpg": "lynx"}
    (tmp_path / "metadata.csv").write_text("name,label\ncat/0.jpg,lynx\n")
    assert planned(tmp_path) == {"cat/0.jpg": "cat"}


def test_image_folders_of_two_forms_of_unicode(tmp_path):
    """A name that the disk has decomposed is that of the table."""
    put(tmp_path, unicodedata.normalize("NFD", "é.jpg"))
    (tmp_path / "metadata.csv").write_text("file_name,label\né.jpg,cat\n", encoding="utf-8")
    assert list(planned(tmp_path).values()) == ["cat"]


def test_image_folders_with_damage(tmp_path, caplog):
    """A line at fault labels nothing, and is told."""
    put(tmp_path, "0.jpg", "1.jpg")
    (tmp_path / "metadata.jsonl").write_text('{\n{"file_name": "1.jpg", "label": "cat"}\n')
    assert planned(tmp_path) == {"0.jpg": None, "1.jpg": "cat"}
    assert "damaged lines, which give no labels: 1" in caplog.text


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": [1]}, ""),
        ({"file_name": ["cat/0.jpg"]}, ""),
        ({"file_name": ["cat/0.jpg"], "label": [{"x": 1}]}, "it gives no labels"),
    ],
)
def test_image_folders_with_another_parquet(tmp_path, caplog, columns, told):
    """One of other columns is about something else; labels that are none are told of."""
    put(tmp_path, "cat/0.jpg")
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    assert planned(tmp_path) == {"cat/0.jpg": "cat"}
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no table"])
def test_image_folders_with_a_damaged_parquet(tmp_path, content):
    """It is refused: other labels than it tells would be wrong without a word."""
    put(tmp_path, "cat/0.jpg")
    (tmp_path / "metadata.parquet").write_bytes(content)
    with pytest.raises(UserInputError, match="it is not a Parquet table, or it is damaged"):
        planned(tmp_path)
