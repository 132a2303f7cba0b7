"""URIs that become rows all at once: the same rows as one by one."""

from __future__ import annotations

import itertools

import numpy as np
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
    *("", "a.jpg", "a/b.jpg", "/", "//a/b.jpg", "/a//b.jpg", "/a/./b.jpg", "/a/../b.jpg", "/a/"),
    *("s3://bucket", "s3://bucket/", "s3://bucket//a.jpg", "s3://a/../b.jpg", "s3://a/.b.jpg"),
    *("S3://bucket/a.jpg", "s3a://bucket/a.jpg", "s3:/bucket/a.jpg", "s3://u:p@b/a.jpg"),
    *("s3://Bucket/a.jpg", "s3://b/a.jpg?X-Amz-Signature=1", "https://h:80/a.jpg", "https://h"),
    *("https://h.x/a.jpg?token=1", "https://h.x/a.jpg#1", "gcs://b1/a.jpg", "abfs://b1/a.jpg"),
    *("file:///a.jpg", "hf://datasets/a/b/c.jpg", "ftp://host/a.jpg", "catdog://a!b", "é/1.jpg"),
    *("/a.zip", "/a.TAR", "s3://bucket/a.tar.gz", "/a.tgz", "/a.Zip", "C:/a.jpg", "/a\\b.jpg"),
    *("/a.jpg\n", "\n/a.jpg", "/a b.jpg", "/ä.jpg", "/a\0.jpg", "/a:b.jpg", "zip://a::/b.zip"),
    *("s3://b1/a::b.jpg", "/a.jpg\r", "/a/~", "s3://b1/a@b.jpg"),
]


def test_what_is_plain():
    """A file's URI or absolute path, where nothing in it could mean something else."""
    assert plain_uris.which([*PLAIN, "/a/~"]).tolist() == [True] * len(PLAIN) + [False]
    assert not plain_uris.which(ODD).any()
    assert not plain_uris.which(["/a.jpg", "/\ud800.jpg"]).any()


@pytest.mark.parametrize("folder", ["file:///lists/", "s3://lists/of/", "https://lists/of/"])
@pytest.mark.parametrize("label", [None, "cat"])
def test_rows_are_the_same(folder, label):
    """All at once or one by one, in a list's folder or elsewhere, with a label or without."""
    reader = EntryReader(SourceLimits(), Columns(), Skips())
    alone = [as_given(reader.read(text, folder, label), text) for text in PLAIN]
    together = plain_uris.rows(PLAIN, [label] * len(PLAIN), folder)
    assert together.equals(to_batch(alone))


def test_random_texts_are_read_the_same():
    """Whatever is taken for plain, of random pieces of URIs, gives the row that it gives alone."""
    rng = np.random.default_rng(7)
    pieces = ["s3://", "https://", "/", "a", "b1", ".", "..", ":", "@", "%2F", "~", "lists/", "of"]
    pieces += ["?", "=", ".zip", ".jpg", "é", "\\", " ", "C:", "//", "::", "&", "-", "X", "_", "1"]
    starts = ["s3://lists/", "https://b1/", "/", ""]
    lengths = rng.integers(1, 7, 20_000)
    texts = [rng.choice(starts) + "".join(rng.choice(pieces, length)) for length in lengths]
    texts = list(itertools.compress(texts, plain_uris.which(texts)))
    assert len(texts) > 100
    reader = EntryReader(SourceLimits(), Columns(), Skips())
    alone = [as_given(reader.read(text, "s3://lists/of/", None), text) for text in texts]
    assert plain_uris.rows(texts, [None] * len(texts), "s3://lists/of/").equals(to_batch(alone))


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
