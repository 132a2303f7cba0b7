"""URIs that become rows all at once: the same rows as one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from catdog.inputs import Columns, SourceLimits, list_images, plain_uris
from catdog.inputs.entries import as_given, to_batch
from catdog.inputs.lists import EntryReader
from catdog.inputs.skipped import Skips

PLAIN = [
    "s3://bucket/a/b/1.jpg",
    "s3://bucket/1",
    "gs://b-1.x/a=1/b~2,(3)!.PNG",
    "az://box/50%25.webp",
    "https://host.example/a/b.jpg",
    "http://127.0.0.1/a.jpg",
    "/data/cat/1.jpg",
    "/lists/cat/1.jpg",
    "/lists/1.jpg",
    "s3://lists/of/dog/2.jpg",
    "s3://lists/of/2.jpg",
    "https://lists/of/2.zip.jpg",
]
ODD = [
    *("", "/", "//a/b.jpg", "/a//b.jpg", "/a/./b.jpg", "/a/../b.jpg", "/a/"),
    *("s3://bucket", "s3://bucket/", "s3://bucket//a.jpg", "s3://a/../b.jpg", "s3://a/.b.jpg"),
    *("S3://bucket/a.jpg", "s3a://bucket/a.jpg", "s3:/bucket/a.jpg", "s3://u:p@b/a.jpg"),
    *("s3://Bucket/a.jpg", "s3://b/a.jpg?X-Amz-Signature=1", "https://h:80/a.jpg", "https://h"),
    *("https://h.x/a.jpg?token=1", "https://h.x/a.jpg#1", "gcs://b1/a.jpg", "abfs://b1/a.jpg"),
    *("file:///a.jpg", "hf://datasets/a/b/c.jpg", "ftp://host/a.jpg", "catdog://a!b", "é/1.jpg"),
    *("/a.zip", "/a.TAR", "s3://bucket/a.tar.gz", "/a.tgz", "/a.Zip", "C:/a.jpg", "/a\\b.jpg"),
    *("/a.jpg\n", "\n/a.jpg", "/a b.jpg", "/ä.jpg", "/a\0.jpg", "/a:b.jpg", "zip://a::/b.zip"),
    *("s3://b1/a::b.jpg", "/a.jpg\r", "/a/~", "s3://b1/a@b.jpg"),
]


BELOW = ["1.jpg", "cat/1.jpg", "a-b/c_d/2", "s3.jpg", "http/x"]
FOLDERS = ["file:///lists/", "s3://lists/of/", "https://lists/of/", "file:///a b/é/"]


def plain(texts, folder):
    """Those of the texts that are plain."""
    return list(itertools.compress(texts, plain_uris.which(pa.array(texts), folder)))


def at_once_and_alone(texts, folder, label=None):
    """The rows of plain texts, both ways."""
    reader = EntryReader(SourceLimits(), Columns(), Skips())
    alone = [as_given(reader.read(text, folder, label), text) for text in texts]
    return plain_uris.rows(pa.array(texts), [label] * len(texts), folder), to_batch(alone)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_plain(folder):
    """A file's URI or path, where nothing in it could mean something else."""
    assert plain([*PLAIN, *BELOW, None], folder) == PLAIN + BELOW
    assert plain(ODD, folder) == []


def test_a_folder_of_an_odd_name():
    """What is relative to it is read by itself."""
    for folder in ("file:///a::b/", "s3://u:p@b/", "s3://X/../"):
        assert plain([*PLAIN, *BELOW], folder)[: len(PLAIN)] == PLAIN
    assert plain(BELOW, "file:///a::b/") == []
    assert plain(BELOW, "s3://u:p@b/") == []


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("label", [None, "cat"])
def test_rows_are_the_same(folder, label):
    """All at once or one by one, in a list's folder or elsewhere, with a label or without."""
    at_once, alone = at_once_and_alone(PLAIN + BELOW, folder, label)
    assert at_once.equals(alone)


@pytest.mark.parametrize("folder", FOLDERS)
def test_random_texts_are_read_the_same(folder):
    """Whatever is taken for plain, of random pieces of URIs, gives the row that it gives alone."""
    rng = np.random.default_rng(7)
    pieces = ["s3://", "https://", "/", "a", "b1", ".", "..", ":", "@", "%2F", "~", "lists/", "of"]
    pieces += ["?", "=", ".zip", ".jpg", "é", "\\", " ", "C:", "//", "::", "&", "-", "X", "_", "1"]
    starts = ["s3://lists/", "https://b1/", "/", ""]
    lengths = rng.integers(1, 7, 10_000)
    texts = [str(rng.choice(starts)) + "".join(rng.choice(pieces, n)) for n in lengths]
    found = plain(texts, folder)
    assert len(found) > 100
    at_once, alone = at_once_and_alone(found, folder)
    assert at_once.equals(alone)


def test_all_kinds_in_one_list(tmp_path):
    """Plain and odd ones, wrong lines, folders: each in its place."""
    (tmp_path / "in" / "cat").mkdir(parents=True)
    for name in ("in/cat/1.jpg", "in/2.jpg", "3 .jpg"):
        (tmp_path / name).write_bytes(b"x")
    lines = [f"{tmp_path}/in/2.jpg", "3 .jpg", "in/", "s3://b1/4.jpg", "s3:/b1/5.jpg", "in/cat/"]
    (tmp_path / "list.txt").write_text("\n".join([*lines, "s3://b1/6.jpg"]))
    found = [
        row
        for batch in list_images([str(tmp_path / "list.txt")], SourceLimits(), once=False)
        for row in batch.to_pylist()
    ]
    base = f"file://{tmp_path}"
    assert [row["uri"] for row in found] == [
        f"{base}/in/2.jpg",
        f"{base}/3 .jpg",
        f"{base}/in/2.jpg",
        f"{base}/in/cat/1.jpg",
        "s3://b1/4.jpg",
        f"{base}/s3:/b1/5.jpg",
        f"{base}/in/cat/1.jpg",
        "s3://b1/6.jpg",
    ]
    assert [row["error"] for row in found] == [None] * 5 + ["unsupported", None, None]
