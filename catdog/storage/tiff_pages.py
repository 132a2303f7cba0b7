"""The pages of a TIFF: where they are, and each as a file of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

TIFF_ENDS = (".tif", ".tiff")
MOST_PAGES = 100_000
_MOST_BYTES = 64 << 20  # of directories together: they may overlap, and take for ever
_PAGE = re.compile(r"page=([0-9]{1,6})")
_SUBFILE = 254  # a tag: 1 is a smaller copy of another page, 4 a mask


class Pages(NamedTuple):
    """What was found."""

    offsets: list[int]
    """Of the directory of each page; smaller copies and masks are left out."""

    whole: bool
    """Whether the file's chain of pages came to its end."""


def page_number(member: str, uri: str) -> int | None:
    """The number, from 0, that `page=3` in a URI has; None where it is no page of a TIFF."""
    found = _PAGE.fullmatch(member)
    return int(found[1]) if found and uri.lower().endswith(TIFF_ENDS) else None


def tiff_pages(read_at: Callable[[int, int], bytes]) -> Pages:
    """The pages of a TIFF or BigTIFF, up to 100,000; none of another file.

    Args:
        read_at: bytes of the file by offset and length; fewer at the end.
    """
    head = read_at(0, 16)
    order = _order(head)
    if order is None:
        return Pages([], whole=False)
    big = head[2:4] in (b"+\0", b"\0+")
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)
    at = int.from_bytes(head[8:16] if big else head[4:8], order)
    offsets: list[int] = []
    seen: set[int] = set()
    read = 0
    while at:
        count = int.from_bytes(read_at(at, count_bytes), order)
        length = count * entry_bytes
        read += length
        bounded = count > 0 and len(seen) < MOST_PAGES and read <= _MOST_BYTES
        if at in seen or not bounded:
            return Pages(offsets, whole=False)
        seen.add(at)
        block = read_at(at + count_bytes, length + offset_bytes)
        if len(block) < length + offset_bytes:
            return Pages(offsets, whole=False)
        if not _kind(block[:length], entry_bytes, order) & 5 or not offsets:
            offsets.append(at)
        at = int.from_bytes(block[length:], order)
    return Pages(offsets, whole=True)


def _order(head: bytes) -> Literal["little", "big"] | None:
    orders: dict[bytes, Literal["little", "big"]] = {
        b"II*\0": "little",
        b"II+\0": "little",
        b"MM\0*": "big",
        b"MM\0+": "big",
    }
    return orders.get(head[:4])


def _kind(entries: bytes, entry_bytes: int, order: Literal["little", "big"]) -> int:
    for at in range(0, len(entries), entry_bytes):
        if int.from_bytes(entries[at : at + 2], order) == _SUBFILE:
            value = entries[at + entry_bytes - (8 if entry_bytes == 20 else 4) :][:4]
            return int.from_bytes(value, order)
    return 0


def as_first_page(data: bytes, offset: int) -> bytes:
    """The file with another page as its first one.

    Args:
        data: the file.
        offset: of the page's directory.
    """
    order = _order(data)
    if order is None:
        return data
    start, size = (8, 8) if data[2:4] in (b"+\0", b"\0+") else (4, 4)
    return data[:start] + offset.to_bytes(size, order) + data[start + size :]
