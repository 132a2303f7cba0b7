"""Files whose names fsspec cannot open in its own forms: `catdog://member!file` (`uris`).

fsspec finds it by its entry point, so that whoever reads results opens every URI in them.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from catdog.storage.files import open_input
from catdog.storage.tiff_pages import as_first_page, page_number, tiff_pages
from catdog.storage.uris import parse_odd, to_uri


class OddNameFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Reads one file, of an archive or by itself."""

    protocol = "catdog"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("catdog://")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and type."""
        return {"name": path, "size": len(_read(path)), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            raise NotImplementedError("these are read only")
        return io.BytesIO(_read(path))


def _read(path: str) -> bytes:
    parsed = parse_odd(f"catdog://{path.removeprefix('catdog://')}")
    if parsed is None:
        raise FileNotFoundError(path)
    name, uri = parsed
    with open_input(to_uri(uri)) as file:
        if not name:
            return file.read()
        if (number := page_number(name, uri)) is not None:
            return _of_tiff(file.read(), number)
        return _of_zip(file, name) if uri.lower().endswith(".zip") else _of_tar(file, name)


def _of_tiff(data: bytes, number: int) -> bytes:
    offsets = tiff_pages(lambda offset, length: data[offset : offset + length]).offsets
    if number >= len(offsets):
        raise FileNotFoundError(f"page {number}")
    return as_first_page(data, offsets[number])


def _of_zip(file: BinaryIO, name: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        for info in reversed(archive.infolist()):
            if info.orig_filename.split("\0", 1)[0] == name:
                return archive.read(info)
    raise FileNotFoundError(name)


def _of_tar(file: BinaryIO, name: str) -> bytes:
    found = None
    with tarfile.open(fileobj=file, mode="r:*", ignore_zeros=True) as archive:
        for info in archive:
            if info.name == name:
                found = info
        member = archive.extractfile(found) if found is not None else None
        if member is None:
            raise FileNotFoundError(name)
        return member.read()
