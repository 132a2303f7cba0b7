"""What was listed is what is read: a source that is another one since is told, and never mixed in."""

from __future__ import annotations

import os
import re
import socket
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import storage
from catdog.errors import ImageRejected
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images, unique
from catdog.inputs.skipped import Skips
from tests.storage.servers import Answering, serving

LIMITS = SourceLimits()


def planned(*inputs, skips=None):
    batches = list_images([str(each) for each in inputs], LIMITS, skips=skips)
    return pa.Table.from_batches(batches, PLAN_SCHEMA)


def results(table):
    read = read_images(table, LIMITS, 4)
    return [str(each.code) if isinstance(each, ImageRejected) else each for each in read]


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name in files:
            member = tarfile.TarInfo(name)
            (path.parent / "member").write_bytes(files[name])
            member.size = len(files[name])
            with (path.parent / "member").open("rb") as data:
                tar.addfile(member, data)
    (path.parent / "member").unlink()


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)


KINDS = {
    "a.tar": write_tar,
    "a.tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
    "a.zip": write_zip,
    "a.parquet": lambda path, files: pq.write_table(
        pa.table({"uri": list(files), "bytes": list(files.values())}), path
    ),
}
ONE, OTHER = ({f"{n}.jpg": bytes([n + add]) * 99 for n in range(40)} for add in (0, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_replaced_by_another(tmp_path, kind):
    """Of the same size, in the middle of a job: no row is of the other one, of a stream neither."""
    path = tmp_path / kind
    KINDS[kind](path, ONE)
    os.utime(path, (1, 1))
    table = planned(path)
    assert results(table.slice(0, 10)) == list(ONE.values())[:10]
    KINDS[kind](path, OTHER)  # in place
    assert results(table.slice(10)) == ["changed"] * 30
    assert results(planned(path)) == list(OTHER.values())


def test_a_file_replaced_in_place(tmp_path):
    """The same size and another time: the row says so, and its neighbour has its picture."""
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"one")
        os.utime(tmp_path / name, (1, 1))
    table = planned(tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"two")
    assert results(table) == ["changed", b"one"]
    assert results(planned(tmp_path)) == [b"two", b"one"]


def test_what_a_list_names_is_read_as_it_is(tmp_path):
    """Nobody has looked at it before: there is nothing that it could differ from."""
    (tmp_path / "list.txt").write_text("1.jpg\n")
    (tmp_path / "1.jpg").write_bytes(b"one")
    table = planned(tmp_path / "list.txt")
    (tmp_path / "1.jpg").write_bytes(b"two")
    assert results(table) == [b"two"]


@pytest.mark.parametrize("kind", ["1.jpg", *KINDS])
def test_objects_replaced(s3, tmp_path, kind):
    """Of the same size: the store itself compares (If-Match)."""
    for number, files in enumerate((ONE, OTHER)):
        KINDS.get(kind, lambda path, files: path.write_bytes(files["1.jpg"]))(
            tmp_path / kind, files
        )
        if number == 0:
            storage.write_atomic(f"{s3}/{kind}", (tmp_path / kind).read_bytes())
            table = planned(f"{s3}/{kind}")
            assert "changed" not in results(table.slice(0, 1))
    storage.write_atomic(f"{s3}/{kind}", (tmp_path / kind).read_bytes())
    assert set(results(table)) == {"changed"}
    assert "changed" not in results(planned(f"{s3}/{kind}"))


class ShortStore(Answering):
    """Lists an object of 1,000 bytes, and answers with fewer, status 200, the first times."""

    def do_GET(self):  # noqa: N802 - http.server's name
        """A listing, or the object."""
        body = b"x" * 1000
        if "/metadata." in self.path:  # the table of an image folder
            self.answer(404, b"")
            return
        if "list-type" in self.path:
            body = (
                b'<?xml version="1.0"?><ListBucketResult '
                b'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
                b"<Contents><Key>p/1.jpg</Key><Size>1000</Size></Contents></ListBucketResult>"
            )
        elif self.server.short:
            self.server.short -= 1
            body = body[:700]
        self.answer(200, body)


@pytest.mark.slow
@pytest.mark.parametrize(("short", "expected"), [(1, b"x" * 1000), (99, "changed")])
def test_an_answer_that_is_too_short(monkeypatch, short, expected):
    """Is asked for again; where it stays so, it is not what was listed, and no broken image."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with serving(ShortStore, short=short) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert results(planned("s3://bucket/p/")) == [expected]


def test_what_is_not_planned_is_counted(tmp_path, caplog):
    """Names given twice, members replaced by later ones, sockets and pipes, hidden files."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"x")
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.jpg"))
    (tmp_path / "list.txt").write_text("images/1.jpg\nimages/1.jpg\n")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "1.jpg", "1.jpg")
        tar.add(folder / "1.jpg", "./1.jpg")
    skips = Skips()
    with caplog.at_level("INFO"):
        table = planned(folder, tmp_path / "list.txt", tmp_path / "a.tar", skips=skips)
    assert table.num_rows == 2
    assert skips.counts() == {
        "socket, pipe or device": 2,
        "named more than once": 2,
        "hidden": 1,
        ".txt": 1,
        "replaced by a later member of its name": 1,
    }
    assert re.search("not planned: .*2 named more than once", caplog.text)


def test_names_are_told_apart_by_128_bits(monkeypatch):
    """Two that share the first 64 are two, in one batch, over batches and as members."""

    def halves_shared(texts):
        given = texts.to_pylist()
        return np.array([[7, hash(text) & 0xFFFF_FFFF] for text in given], np.uint64)

    monkeypatch.setattr(unique, "hashes", halves_shared)
    seen = unique.Seen()
    assert seen.add(pa.array(["a", "b", "a", "c"])).tolist() == [True, True, False, True]
    assert seen.add(pa.array(["d", "b", "e"])).tolist() == [True, False, True]
    assert seen.add(pa.array(list("abcdefg"))).tolist() == [False] * 5 + [True] * 2


def test_hashes_have_a_secret(monkeypatch):
    """Nobody can choose names that collide, whatever PYTHONHASHSEED is."""
    first = unique.hashes(pa.array(["a"]))
    monkeypatch.setattr(unique, "_SALTS", ("other", "salts"))
    assert (unique.hashes(pa.array(["a"])) != first).all()
