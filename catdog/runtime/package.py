"""The files to send with a job: those of this package, and nothing beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.errors import CatdogError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1]
_CODE = {".py", ".typed", ".lock", ".css", ".js", ".j2"}
_WEIGHTS = {".keras", ".bin", ".xml", ".json"}
_MAX_UPLOAD_BYTES = 100 * 2**20


def stage(folder: Path) -> tuple[int, int]:
    """Copy the package, and nothing else, to `folder`; returns the number of files and bytes.

    Raises:
        CatdogError: the package is larger than code can be.
    """

    def ignored(inside: str, names: list[str]) -> set[str]:
        return {name for name in names if not _is_sent(Path(inside, name))}

    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if sum(sizes) > _MAX_UPLOAD_BYTES:
        raise CatdogError(
            f"{PACKAGE} holds {sum(sizes) / 2**20:,.0f} MiB; more than code and models, and more "
            "than a job may send"
        )
    return len(sizes), sum(sizes)


def _is_sent(path: Path) -> bool:
    """Whether a file in the package's folder belongs to the package; others are not sent."""
    if path.name.startswith((".", "__pycache__")):
        return False
    if path.is_dir():
        return not path.is_symlink()
    return path.suffix in (_WEIGHTS if "weights" in path.relative_to(PACKAGE).parts else _CODE)


def listing(folder: Path) -> Iterator[str]:
    """What a staged folder holds, a line for each file or folder of the package."""
    (package,) = folder.iterdir()
    for entry in sorted(package.iterdir()):
        inside = [each for each in (entry, *entry.rglob("*")) if each.is_file()]
        if inside:
            size = sum(each.stat().st_size for each in inside)
            files = f"{len(inside)} files, " if entry.is_dir() else ""
            yield f"catdog/{entry.name}{'/' * entry.is_dir()}: {files}{size / 1000:,.1f} kB"
