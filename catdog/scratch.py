"""Folders for what ends with this process, and that no other account of the machine can enter."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.errors import naming_full_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "catdog-run-"
_NEW = "catdog-new-"  # as long
_LOCK = ".lock"
_RANDOM = 8  # characters that `tempfile` adds
# Where the folder for temporary files is too deep.
_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a private folder is made there

in_use: set[Path] = set()
"""The private folders of this process."""


def naming_full(place: Path | None = None) -> contextlib.AbstractContextManager[None]:
    """Have a full disk named where the block writes temporary files. Raises `DiskFullError`."""
    folder = str(place or tempfile.gettempdir())
    return naming_full_disk(folder, ", or set TMPDIR to a folder that has more")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder for what ends with the block.

    Raises:
        DiskFullError: no space is left for what the block writes there.
    """
    with naming_full(), tempfile.TemporaryDirectory(prefix="catdog-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def private_folder(*, longest: int | None = None) -> Iterator[Path]:
    """A new folder of mode 0700, removed at the end; what ended processes left is removed, too.

    It holds a locked file. The kernel lets go of the lock when this process ends, however it ends,
    which also tells processes of other containers that share the folder for temporary files.

    Args:
        longest: bytes that the path has at most, for sockets (theirs have at most 107 on Linux).
            Where the folder for temporary files is deeper, a shorter one takes its place.

    Raises:
        OSError: nowhere can such a folder be made.
        DiskFullError: no space is left for it.
    """
    with naming_full():
        made = _made(longest)
        lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path = made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now: whoever finds it under this name without a held lock removes it.
        path = made.rename(made.with_name(PREFIX + made.name.removeprefix(_NEW)))
        in_use.add(path)
        remove_left_behind(path.parent)
        yield path
    finally:
        in_use.discard(path)
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _made(longest: int | None) -> Path:
    failure: OSError | None = None
    for place in dict.fromkeys((tempfile.gettempdir(), *_SHORT_PLACES)):
        length = len(os.fsencode(place)) + 1 + len(PREFIX) + _RANDOM
        if longest is None or length <= longest:
            try:
                return Path(tempfile.mkdtemp(prefix=_NEW, dir=place))
            except OSError as error:
                failure = failure or error
    raise failure or OSError(f"no folder for temporary files has a path below {longest} bytes")


def remove_left_behind(place: Path) -> None:
    """Remove the private folders in `place` that are this user's and whose processes have ended."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            ours = entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
            if ours and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _remove_unless_used(Path(entry.path))


def _remove_unless_used(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
