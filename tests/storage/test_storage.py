"""Local files through catdog.storage; S3 is in test_s3.py."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fsspec
import pytest

from catdog import storage
from catdog.errors import ErrorCode

if TYPE_CHECKING:
    from pathlib import Path


def test_import_is_light():
    """Importing sources and storage loads neither S3's client nor Ray nor TensorFlow."""
    code = "import catdog.inputs, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"s3fs", "aiobotocore", "botocore", "fsspec", "ray", "tensorflow", "PIL"}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("/a/b.jpg", "file:///a/b.jpg"),
        ("/a/../b c#%20?.jpg", "file:///b c#%20?.jpg"),
        ("file:///a//b/", "file:///a/b"),
        ("file://localhost/a", "file:///a"),
        ("FILE:///a", "file:///a"),
        ("s3://bucket/a//b%20#?.jpg", "s3://bucket/a//b%20#?.jpg"),
        ("s3a://bucket/x/", "s3://bucket/x/"),
        ("s3://bucket", "s3://bucket/"),
    ],
)
def test_uris_are_canonical_and_raw(given, canonical):
    """One spelling for each file, without percent-encoding; canonical ones stay as they are."""
    assert storage.to_uri(given) == canonical
    assert storage.to_uri(canonical) == canonical


def test_relative_paths_start_at_the_current_folder(tmp_path, monkeypatch):
    """A relative path becomes absolute."""
    monkeypatch.chdir(tmp_path)
    assert storage.to_uri("x/y.jpg") == f"file://{tmp_path}/x/y.jpg"


@pytest.mark.parametrize(
    "given", ["ftp://x/y.jpg", "http://", "s3://", "s3:///key", "s3://id:secret@b/k"]
)
def test_other_uris_are_refused_without_repeating_secrets(given):
    """Unknown schemes and credentials in a URI raise ValueError, whose text has no secret."""
    with pytest.raises(ValueError, match=r".+") as caught:
        storage.to_uri(given)
    assert "secret" not in str(caught.value)


def test_ranges_and_whole_files(tmp_path):
    """A range ends where the file ends; a whole file over the limit raises EFBIG."""
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    uri = storage.to_uri(str(path))
    assert storage.read_range(uri, 2, 3) == b"234"
    assert storage.read_range(uri, 8, 10) == b"89"
    assert storage.read_range(uri, 20, 10) == b""
    assert storage.read_bytes(uri, 10) == b"0123456789"
    with pytest.raises(OSError, match="more than 9 bytes") as caught:
        storage.read_bytes(uri, 9)
    assert caught.value.errno == errno.EFBIG
    assert storage.size_and_stamp(uri)[0] == 10
    with storage.open_input(uri) as file:
        file.seek(-1, os.SEEK_END)
        assert file.read() == b"9"


def test_pipes_and_folders_do_not_block(tmp_path):
    """Reading a named pipe or a folder raises at once."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    no_file, folder = (ErrorCode.UNSUPPORTED, "a pipe, a socket"), (ErrorCode.UNREADABLE, ".+")
    for name, (code, words) in {"pipe": no_file, "socket": no_file, "": folder}.items():
        with pytest.raises(OSError, match=words) as caught:
            storage.read_range(storage.to_uri(str(tmp_path / name)), 0, 1)
        assert storage.error_code(caught.value) == code


def test_a_file_is_whole_or_absent(tmp_path: Path):
    """While a file is written, and when that fails, its folder shows what was there before."""
    uri = storage.join(storage.to_uri(str(tmp_path)), "new", "x.bin")

    def interrupted() -> None:
        with storage.open_atomic(uri) as file:
            file.write(b"half")
            assert not storage.exists(uri)
            assert storage.list_names(storage.join(storage.to_uri(str(tmp_path)), "new")) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "new").iterdir()) == []
    storage.write_atomic(uri, b"one")
    storage.write_atomic(uri, b"two")
    assert storage.read_bytes(uri, 10) == b"two"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.bin"]
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_long_names_can_be_written(tmp_path):
    """The temporary name fits the file system wherever the final one does."""
    uri = storage.to_uri(str(tmp_path / ("ü" * 127)))
    storage.write_atomic(uri, b"x")
    assert storage.read_bytes(uri, 1) == b"x"


def test_killed_writer_leaves_nothing_visible(tmp_path):
    """A process killed in the middle of a write leaves no readable file."""
    code = (
        "import os, signal, sys; from catdog import storage\n"
        "with storage.open_atomic(sys.argv[1]) as f:\n"
        "    f.write(b'x' * 100_000); f.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    uri = storage.to_uri(str(tmp_path / "x"))
    subprocess.run([sys.executable, "-c", code, uri], check=False)
    assert not storage.exists(uri)
    assert storage.list_names(storage.to_uri(str(tmp_path))) == []


def test_names_of_a_folder(tmp_path):
    """Sorted, subfolders with a slash; none where there is not a folder."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").touch()
    uri = storage.to_uri(str(tmp_path))
    assert storage.list_names(uri) == ["a", "b/"]
    assert storage.list_names(storage.join(uri, "nowhere")) == []


def test_fsspec_opens_the_same_file(tmp_path):
    """`filesystem` and fsspec.open agree on what a URI is."""
    path = tmp_path / "a b#?%20ü.bin"
    path.write_bytes(b"x")
    uri = storage.to_uri(str(path))
    fs, inner = storage.filesystem(uri)
    assert fs.cat_file(inner) == b"x"
    with fsspec.open(uri) as file:
        assert file.read() == b"x"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(2, "x"), ErrorCode.MISSING),
        (NotADirectoryError(20, "x"), ErrorCode.MISSING),
        (PermissionError(13, "x"), ErrorCode.FORBIDDEN),
        (OSError(errno.EIO, "x"), ErrorCode.UNREADABLE),
        (OSError(errno.EFBIG, "x"), ErrorCode.TOO_LARGE),
        (RuntimeError("secret"), ErrorCode.UNREADABLE),
    ],
)
def test_what_an_exception_means(error, code):
    """Each kind of failure has its code, and a sentence that does not repeat foreign words."""
    rejected = storage.rejection(error)
    assert rejected.code == code
    assert rejected.detail.endswith(".")
    assert "secret" not in rejected.detail


@pytest.mark.parametrize("where", ["local", "s3"])
def test_of_many_writers_of_a_new_file_one_succeeds(where, tmp_path, request):
    """`write_new` never replaces: one of many threads wins, and its bytes stay."""
    folder = tmp_path.as_uri() if where == "local" else request.getfixturevalue("s3")
    uri = storage.join(folder, "plan.json")
    writers = 8 if where == "local" else 3  # the server lets one wait for the other by the second
    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(lambda n: storage.write_new(uri, b"writer %d" % n), range(writers)))
    assert sum(won) == 1
    assert storage.read_bytes(uri, 100) == b"writer %d" % won.index(True)
    assert storage.write_new(uri, b"writer %d" % won.index(True))  # a repeated request
    assert storage.list_names(folder) == ["plan.json"]


def test_create_where_there_are_no_links(tmp_path, monkeypatch):
    """On a file system that refuses hard links a file is created all the same, once."""

    def refuses(*_):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuses)
    uri = (tmp_path / "x").as_uri()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: storage.write_new(uri, bytes([n])), range(32)))
    assert sum(won) == 1
    assert (tmp_path / "x").read_bytes() == bytes([won.index(True)])
    assert storage.list_names(tmp_path.as_uri()) == ["x"]
