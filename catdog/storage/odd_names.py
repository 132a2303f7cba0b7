"""Files whose names fsspec cannot open in its own forms: `catdog://member!file` (`uris`).

fsspec finds it by its entry point, so that whoever reads results opens every URI in them.
"""

from __future__ import annotations

import contextlib
import io
import struct
import tarfile
import zipfile
import zlib
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from catdog.storage.files import open_input
from catdog.storage.tiff_pages import as_first_page, page_number, tiff_pages
from catdog.storage.uris import parse_odd, to_uri

# Of a zip's member: the rest of its mark and version, flags, method, size in the archive, lengths.
_LOCAL = struct.Struct("<6s2H8xL4x2H")


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
    # One record that it does not understand costs it all members.
    refusals = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, zlib.error)
    with contextlib.suppress(*refusals), zipfile.ZipFile(file) as archive:
        for info in reversed(archive.infolist()):
            if info.orig_filename.split("\0", 1)[0] == name:
                return _content(file, info)
    file.seek(0)
    return _of_damaged_zip(file.read(), name)


def _content(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """A member's content. zipfile would want the directory's name in its own header as well."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size).ljust(_LOCAL.size, b"\0")
    file.seek(sum(_LOCAL.unpack(header)[4:]), io.SEEK_CUR)  # behind its name and extra fields
    data = file.read(info.compress_size)
    return zlib.decompress(data, -zlib.MAX_WBITS) if info.compress_type else data


def _of_damaged_zip(data: bytes, name: str) -> bytes:
    """A member by its own header, of a zip without a sound directory; the last one of its name."""
    at = len(data)
    while (at := data.rfind(b"PK\3\4", 0, at)) >= 0:
        header = data[at : at + _LOCAL.size].ljust(_LOCAL.size, b"\0")
        _, flags, method, compressed, name_bytes, extra_bytes = _LOCAL.unpack(header)
        start = at + _LOCAL.size
        encoding = "utf-8" if flags & 0x800 else "cp437"
        found = data[start : start + name_bytes].decode(encoding, "replace").split("\0", 1)[0]
        start += name_bytes + extra_bytes
        if found == name and method == 8:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(memoryview(data)[start:])
        if found == name and method == 0 and not flags & 8:
            return data[start : start + compressed]
    raise FileNotFoundError(name)


def _of_tar(file: BinaryIO, name: str) -> bytes:
    found = None
    with tarfile.open(fileobj=file, mode="r:*", ignore_zeros=True) as archive:
        with contextlib.suppress(tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
            for info in archive:  # up to where it is damaged
                if info.name == name:
                    found = info
        member = archive.extractfile(found) if found is not None else None
        if member is None:
            raise FileNotFoundError(name)
        return member.read()
