"""Disks that are full: real ones, of a few kilobytes in memory."""

from __future__ import annotations

import contextlib
import errno
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from catdog import scratch, storage
from catdog.cli.commands import main
from catdog.errors import CatdogError, DiskFullError
from catdog.inputs import PLAN_SCHEMA, Columns, frames, unique
from catdog.pixels import DecodeLimits, Preprocessing
from catdog.results.buckets import Buckets
from catdog.runtime import embedded
from catdog.training import cache
from tests import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOM = 64 << 10
TOO_MUCH = bytes(range(256)) * (ROOM // 128)


def _mount(folder: Path, *options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    _mount(folder, f"size={ROOM}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_temporary(small, monkeypatch) -> Path:
    """The folder for temporary files is on a disk of 64 KiB."""
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    return small


def _open_atomic(uri: str, data: bytes) -> None:
    with storage.open_atomic(uri) as file:
        file.write(data)


def _write_over(uri: str, data: bytes) -> None:
    version = storage.read_version(uri, ROOM)[1]
    storage.write_over(uri, data, version)


@pytest.mark.parametrize(
    "write", [storage.write_atomic, storage.write_new, _open_atomic, _write_over]
)
def test_a_file_that_finds_no_space_is_named(small, write):
    """Each way to write a file says which one and what to do, and leaves what was there before."""
    path = small / "file"
    if write is not storage.write_new:
        path.write_bytes(b"before")
    before = sorted(small.iterdir())
    with pytest.raises(DiskFullError, match=f"^{path}: the disk is full; free some space, then "):
        write(f"file://{path}", TOO_MUCH)
    assert sorted(small.iterdir()) == before
    assert all(each.read_bytes() == b"before" for each in before)


def test_a_disk_without_room_for_names_is_full_too(tmp_path):
    """A disk on which no more files can be made says the same."""
    folder = tmp_path / "few"
    folder.mkdir()
    _mount(folder, "nr_inodes=2")
    try:
        storage.write_atomic(f"file://{folder}/one", b"")
        with pytest.raises(DiskFullError, match=f"^{folder}/a/two: the disk is full"):
            storage.write_atomic(f"file://{folder}/a/two", b"")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _spill() -> None:
    uris = [f"file:///{'x' * 1000}/{number}.jpg" for number in range(6000)]
    columns = (
        {"uri": uris, "name": uris}
        | {field.name: pa.nulls(len(uris), field.type) for field in PLAN_SCHEMA}
        | {"uri": uris, "name": uris}
    )
    with contextlib.closing(unique.Spill()) as spill:
        spill.add(pa.RecordBatch.from_pydict(columns, PLAN_SCHEMA))


def _buckets() -> None:
    with scratch.private_folder() as folder:
        records = Buckets(folder / "buckets", np.dtype(np.uint64))
        records.add(np.zeros(5_000_000, np.int64), np.zeros(5_000_000, np.uint64))


def _frame() -> None:
    uris = pa.array([np.random.default_rng(n).bytes(40).hex() for n in range(4000)])
    frames.store_frame(pa.table({"uri": uris}), Columns(), "file:///nowhere")


def _temporary_folder() -> None:
    with scratch.temporary_folder() as folder:
        (folder / "file").write_bytes(TOO_MUCH)


def _ray() -> None:
    with scratch.private_folder() as folder:
        embedded._refuse_full_disk(folder)


@pytest.mark.parametrize("use", [_spill, _buckets, _frame, _temporary_folder, _ray])
def test_temporary_files_that_find_no_space_name_their_folder(small_temporary, use):
    """What is kept there while a job runs says where, and that TMPDIR names another place.

    None of it is an `OSError`, which of an archive would make a rejected image.
    """
    with pytest.raises(DiskFullError) as caught:
        use()
    assert str(caught.value) == (
        f"{small_temporary}: the disk is full; free some space, or set TMPDIR to a folder that has "
        "more, then run the same command again"
    )
    assert list(small_temporary.iterdir()) == []


def test_an_error_of_a_library_is_named_by_the_command(monkeypatch, capsys):
    """What a library raises without a name becomes one line that names a folder; exit code 1."""

    def fail(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("catdog.cli.commands._RUN", dict.fromkeys(_commands(), fail))
    assert main(["doctor"]) == 1
    assert f"{tempfile.gettempdir()}: the disk is full; free some space" in capsys.readouterr().err


def _commands() -> list[type]:
    from catdog.cli.arguments import COMMANDS

    return list(COMMANDS.values())


def test_a_cache_on_a_full_disk_is_read(small):
    """A run finds what it kept before; a new cache there says that the disk is full."""
    about = Preprocessing(8, 8), DecodeLimits()
    folder = cache.opened(str(small / "kept"), *about).folder
    with pytest.raises(OSError, match="No space"):
        (small / "filler").write_bytes(TOO_MUCH)
    assert cache.opened(str(small / "kept"), *about).folder == folder
    with pytest.raises(DiskFullError, match=f"^{small}/new/.*: the disk is full"):
        cache.opened(str(small / "new"), *about)


@pytest.mark.slow
def test_results_on_a_full_disk_are_gone_on_with(small, ray_cluster, drawings, tiny_model):
    """A worker's file that finds no space is named on the driver; with more space the rest is done."""
    from catdog import classification

    config = classification.ClassifyConfig(
        images=(str(drawings),), model=tiny_model, output=str(small / "results"), workers=1
    )
    _mount(small, "remount", "size=40k")
    with pytest.raises(CatdogError, match=f"^{small}/results/part-.*: the disk is full; free"):
        classification.classify(config)
    _mount(small, "remount", "size=1m")
    assert classification.classify(config).classified == 160
    assert not [each for each in (small / "results").iterdir() if "unfinished" in each.name]


@pytest.mark.slow
@pytest.mark.long  # in a cluster of its own
def test_a_training_run_on_a_full_disk_is_named(small, drawings):
    """A checkpoint that finds no space says in which run's folder."""
    output = small / "run"
    command = ["train", drawings, "--output", output, "--architecture", "article", "--workers", 1]
    command += ["--epochs", 1, "--max-restarts", 0, "--height", 64, "--width", 72]
    process = jobs.catdog(*command)
    _, said = process.communicate(timeout=240)
    assert re.fullmatch(
        rf"catdog train: (training failed: )?{output}.*: the disk is full; free some space, then .*",
        said.splitlines()[-1],
    )
    assert process.returncode == 1
