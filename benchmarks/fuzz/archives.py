"""Archives as strangers make them: zip, zip64, tar in its three dialects, gzip."""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

from benchmarks.fuzz.mutation import EDGES, damage, field, number

if TYPE_CHECKING:
    import random

# Signature -> (offset, bytes) of the numbers behind it: the records of a zip.
_ZIP_NUMBERS = {
    b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": (
        *((4, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2)),
        *((34, 2), (38, 4), (42, 4)),
    ),
    b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((4, 4), (8, 8), (16, 4)),
    b"PK\7\x08": ((4, 4), (8, 4), (12, 4)),
    b"\1\0": ((0, 2), (2, 2), (4, 8), (12, 8), (20, 8)),  # the zip64 field
    b"\x75\x70": ((2, 2), (4, 1), (5, 4)),  # Info-ZIP's field of a name
}
_TAR_NUMBERS = ((100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (257, 8), (345, 8), (482, 1))
_NAMES = (
    *("a.jpg", "dog/b.png", "cat/" + "n" * 120 + ".jpg", "ü.jpg", "../c.jpg", "./a.jpg", "/d.jpg"),
    *("cat/", ".hidden.jpg", "inner.zip", "a\\b.jpg", "e.jpg\0f", "x" * 300, "::", "tar://a::b"),
)
_PAX_KEYS = (
    *("size", "path", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.name", "mtime"),
    *("linkpath", "uid", "hdrcharset", "GNU.sparse.major", "SCHILY.xattr.a"),
)


def _names(chance: random.Random) -> list[str]:
    return chance.sample(_NAMES, chance.randrange(1, 6))


class _Unseekable(io.BytesIO):
    """What zipfile takes for a pipe: sizes and checksums come behind the data."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError("a pipe")

    def seek(self, *_: object) -> int:
        raise OSError("a pipe")


def zip_file(chance: random.Random, sound: bytes) -> bytes:
    """A zip, often with records of zip64, some of its numbers at an edge."""
    stream = _Unseekable() if chance.random() < 0.2 else io.BytesIO()
    kind = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name in _names(chance):
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            if chance.random() < 0.3:  # unused until a size or an offset says that it counts
                wide = (len(sound), len(sound), 0)
                if chance.random() < 0.5:
                    wide = tuple(number(chance) % 2**64 for _ in wide)
                info.extra = struct.pack("<HHQQQ", 1, 24, *wide)
            elif chance.random() < 0.2:
                info.extra = struct.pack("<HHBI", 0x7075, 9, 1, 0) + b"a.jp"
            with archive.open(info, "w", force_zip64=chance.random() < 0.5) as member:
                member.write(sound)
        if chance.random() < 0.1:
            archive.comment = chance.choice((b"PK\5\6" + bytes(18), b"x" * 65535))
    data = bytearray(stream.getvalue())
    if chance.random() < 0.4:
        _add_zip64_end(data, chance)
    for _ in range(chance.choice((1, 1, 2, 4))):
        signature = chance.choice((b"PK\1\2", *_ZIP_NUMBERS))
        places = [found.start() for found in re.finditer(re.escape(signature), data)]
        if places:
            offset, size = chance.choice(_ZIP_NUMBERS[signature])
            at = chance.choice(places) + offset
            # All ones have the number of zip64 count.
            data[at : at + size] = b"\xff" * size if chance.random() < 0.3 else field(chance, size)
    if chance.random() < 0.1:
        data[:0] = chance.randbytes(chance.choice((1, 40, 5000)))  # a program before it
    return _rarely_damaged(bytes(data), chance)


def _add_zip64_end(data: bytearray, chance: random.Random) -> None:
    """The directory's end as zip64 has it, too; the old one may point to it in all fields or none."""
    at = data.rfind(b"PK\5\6")
    _, _, _, here, total, length, start, _ = struct.unpack_from("<4s4H2LH", data, at)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, here, total, length, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    if chance.random() < 0.5:
        data[at + 8 : at + 20] = b"\xff" * 12
    data[at:at] = end64 + chance.choice((b"", b"", b"more")) + locator


def tar_file(chance: random.Random, sound: bytes) -> bytes:
    """A tar in one of its dialects, some of its headers changed, their checksums right again."""
    stream = io.BytesIO()
    dialect = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=dialect) as archive:
        for name in _names(chance):
            info = tarfile.TarInfo(name if dialect != tarfile.USTAR_FORMAT else name[-60:])
            info.size = len(sound)
            if dialect == tarfile.GNU_FORMAT and chance.random() < 0.2:
                info.linkname = "l" * 200
            if dialect == tarfile.PAX_FORMAT and chance.random() < 0.5:
                values = ("-1", "", "9" * 30, "../x", "a.jpg", "1e3", "+5", str(number(chance)))
                info.pax_headers = {chance.choice(_PAX_KEYS): chance.choice(values)}
            archive.addfile(info, io.BytesIO(sound))
    data = bytearray(stream.getvalue())
    for _ in range(chance.choice((0, 1, 1, 2))):
        _change_block(data, 512 * chance.randrange(len(data) // 512), chance)
    if chance.random() < 0.1:
        data = data.rstrip(b"\0") + data  # another one behind it
    return _rarely_damaged(bytes(data), chance)


def _change_block(data: bytearray, at: int, chance: random.Random) -> None:
    block = bytes(data[at : at + 512])
    if b"=" in block[:64] and chance.random() < 0.7:  # pax records: `LENGTH KEY=VALUE\n`
        digits = str(chance.choice((0, 1, 4, 5, 19, 511, 513, *EDGES))).encode()
        end = data.index(b" ", at)
        data[at:end] = digits[: max(1, end - at)].rjust(end - at, chance.choice((b"0", b" ", b"+")))
        return
    offset, size = chance.choice(_TAR_NUMBERS)
    match chance.randrange(4):
        case 0:
            value = (b"%o" % abs(number(chance)))[:size].rjust(size, b"0")
        case 1:  # base 256
            value = chance.choice((b"\x80", b"\xff", b"\x81"))
            value += (number(chance) % 2**128).to_bytes(16, "big")[-(size - 1) :]
            value = value[:size].ljust(size, b"\0")
        case 2:
            value = bytes([chance.choice(b"0123456789gxLKSDVXNM \0+-_")]) * size
        case _:
            value = chance.randbytes(size)
    data[at + offset : at + offset + size] = value[:size]
    header = bytearray(data[at : at + 512])
    header[148:156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(header)


def gzip_file(chance: random.Random, sound: bytes) -> bytes:
    """A tar in gzip, its header, its end or something between changed."""
    return compressed(tar_file(chance, sound), chance)


def compressed(data: bytes, chance: random.Random) -> bytes:
    """A gzip file of some streams, with some damage."""
    if chance.random() < 0.2:
        half = len(data) // 2
        packed = gzip.compress(data[:half], 1, mtime=0) + gzip.compress(data[half:], 1, mtime=0)
    else:
        packed = gzip.compress(data, chance.choice((0, 1, 9)), mtime=0)
    packed += chance.choice((b"", b"", b"\0" * 1000, b"\x1f\x8b", b"junk"))
    changed = bytearray(packed)
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = chance.choice((2, 3, 4, 8, 9, len(changed) - 4, len(changed) - 8))
        at = at if chance.random() < 0.5 else chance.randrange(len(changed))
        if at == 3:  # flags of fields that follow
            changed[3] = chance.choice((0, 1, 2, 4, 8, 16, 31, 255))
        else:
            changed[at : at + 4] = field(chance, 4)[: len(changed) - at]
    return bytes(changed)


def _rarely_damaged(data: bytes, chance: random.Random) -> bytes:
    return damage(data, chance) if chance.random() < 0.15 else data
