"""catdog.scratch: folders that nobody else enters and that nobody has to remove."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from catdog import scratch


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nobody_else_enters_and_it_ends(place):
    """Mode 0700 whatever the umask; gone at the end, also by an exception."""
    before = os.umask(0)
    try:
        with contextlib.suppress(KeyError), scratch.private_folder() as folder:
            assert folder.parent == place
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "inside").mkdir()
            raise KeyError
    finally:
        os.umask(before)
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(place):
    """Not a folder in use, nor what another made under such a name, nor what a link leads to."""
    code = (
        "import time; from catdog import scratch\n"
        "with scratch.private_folder() as folder:\n"
        "    (folder / 'file').touch(); print(folder, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"TMPDIR": str(place)}
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", code], stdout=-1, text=True, env=environment)
        for _ in range(2)
    )
    try:
        left, used = (Path(each.stdout.readline().strip()) for each in (killed, alive))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        other = place / f"{scratch.PREFIX}of-somebody"
        other.mkdir()
        (place / f"{scratch.PREFIX}link").symlink_to(left)
        assert (left / "file").exists()
        with scratch.private_folder():
            pass
        assert not left.exists()
        assert (used / "file").exists()
        assert other.exists()
    finally:
        for each in (killed, alive):
            each.kill()
            each.wait()
            each.stdout.close()


def test_the_log_of_a_killed_command_goes_with_the_next(place):
    """Nobody is told where it is; of a command that fails it stays, in mode 0600."""
    code = (
        "import os, sys; from catdog import terminal\n"
        "with terminal.progress('catdog-train'):\n"
        "    print('heard', file=sys.stderr, flush=True); os.kill(os.getpid(), int(sys.argv[1]))"
    )
    environment = os.environ | {"TMPDIR": str(place)}

    def run(signal_number):
        command = [sys.executable, "-c", code, str(int(signal_number))]
        return subprocess.run(command, capture_output=True, env=environment, check=False)

    run(signal.SIGKILL)
    (left,) = place.iterdir()
    assert (left / "log").read_text() == "heard\n"
    assert run(signal.SIGINT).stderr.count(b"the libraries' log is in") == 1
    (log,) = place.iterdir()
    assert log.name.startswith("catdog-train-")
    assert log.read_text().startswith("heard\nTraceback")
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_long_path_is_replaced_by_a_short_one(tmp_path, monkeypatch):
    """Where sockets lie in it; elsewhere the folder for temporary files is used as it is."""
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with scratch.private_folder() as folder, scratch.private_folder(longest=43) as short:
        assert folder.parent == deep
        assert len(os.fsencode(short)) <= 43
        assert short.stat().st_mode & 0o777 == 0o700
    with pytest.raises(OSError, match="below 5 bytes"), scratch.private_folder(longest=5):
        pass
