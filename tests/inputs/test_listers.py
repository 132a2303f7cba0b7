"""Archives that processes list beside the driver's."""

import os
import signal
import tarfile
import zipfile

import pytest

from catdog import inputs, machine
from catdog.errors import CatdogError
from catdog.inputs import listers
from catdog.results import Folder, drafts

pytestmark = pytest.mark.slow


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Names of many archives, one of them broken, with what is skipped; listed by processes at once."""
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2)
    monkeypatch.setattr(listers, "_AFTER_S", 0.0)
    folder = tmp_path / "archives"
    folder.mkdir()
    for number in range(20):
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            for member in (*range(number * 30 + 1), "notes.txt"):
                tar.addfile(tarfile.TarInfo(f"cat/{member}.jpg".replace(".txt.jpg", ".txt")))
        with zipfile.ZipFile(folder / f"{number:02d}.zip", "w") as archive:
            archive.writestr("a.jpg", b"x")
    (folder / "07.tar").write_bytes(b"no archive at all")
    return [str(path) for path in sorted(folder.iterdir())]


def plan(names, output):
    """The plan's identifier, and what was skipped."""
    skips = inputs.Skips()
    listed = inputs.list_images(names, inputs.SourceLimits(), skips=skips)
    draft = drafts.draft(Folder(output.as_uri()), listed)
    return draft.generation.identifier, draft.generation.images, skips.counts()


def test_a_plan_is_the_same_whoever_lists(archives, tmp_path, monkeypatch):
    """Many named archives, or a folder of them, by processes or by threads."""
    by_processes = plan(archives, tmp_path / "a")
    assert by_processes[2] == {".txt": 19}
    monkeypatch.setattr(listers, "_AFTER_S", 1000.0)
    assert plan(archives, tmp_path / "b") == by_processes


def test_a_process_that_ends_ends_the_listing(archives, monkeypatch):
    """In one line that names the archive; its images are not left out."""
    started = []

    def start(start=listers._start):
        started.append(start())
        return started[-1]

    def list_and_kill():
        for _ in inputs.list_images(archives * 40, inputs.SourceLimits(), once=False):
            for _, process in started:
                os.kill(process.pid, signal.SIGKILL)

    monkeypatch.setattr(listers, "_start", start)
    with pytest.raises(CatdogError, match=r"(tar|zip): the process that listed it ended"):
        list_and_kill()
    assert all(process.poll() is not None for _, process in started)
