"""The columns in a Parquet footer, with every number within bounds: for tables of strangers.

Some damaged footers make pyarrow end the process when it is asked for a column's statistics. Reading the
values is no way out, since a page takes the memory that its header claims.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import pyarrow as pa

from catdog import storage
from catdog.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MOST_BYTES = 64 << 20  # of a footer
_MOST_PAGE_HEADER_BYTES = 16 << 20  # as Arrow
_DEEPEST = 16
_LARGEST = (1 << 63) - 1
# Types of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_NUMBERS = (4, 5, 6)


class DamagedError(Exception):
    """A footer is not one of Parquet's."""


# Arrow raises any of these at names and numbers in a file that is damaged.
DAMAGE = (pa.ArrowException, OverflowError, UnicodeError, LookupError, DamagedError)


@contextlib.contextmanager
def opened(uri: str, stamp: str | None) -> Iterator[tuple[BinaryIO, Any]]:
    """A table: the file, and a ParquetFile of it.

    Raises:
        UserInputError: it is damaged, here or within the block.
    """
    import pyarrow.parquet as pq

    try:
        with (
            storage.open_input(uri, stamp) as file,
            pq.ParquetFile(file, pre_buffer=False) as table,
        ):
            yield file, table
    except (*DAMAGE, OSError) as error:
        if storage.is_of_disk(error):
            raise
        raise UserInputError(f"{uri}: it is not a Parquet table, or it is damaged") from error


class Chunk(NamedTuple):
    """A column of a row group."""

    group: int
    """Number of the row group."""
    path: str
    """Names of the columns down to it, with dots between."""
    values: int
    nulls: int | None
    """Of the values, where that is told."""
    start: int
    """Of its first page in the file."""
    length: int
    """Of all its pages in bytes."""


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The columns of all row groups.

    Raises:
        DamagedError: the footer is damaged, or too large.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(8)[:4], "little")
    if not 0 < length <= min(size - 8, _MOST_BYTES):
        raise DamagedError("the footer's length is wrong")
    file.seek(size - 8 - length)
    footer = _Reader(file.read(length)).struct()
    for number, group in enumerate(_list(footer, 4)):
        for column in _list(group, 1):
            described = column.get(3)
            if not isinstance(described, dict):
                raise DamagedError("a column is not described")
            statistics = described.get(12, {})
            nulls = statistics.get(3) if isinstance(statistics, dict) else None
            path = b".".join(each for each in _list(described, 3, bytes))
            yield Chunk(
                number,
                path.decode("utf-8", "replace"),
                _number(described.get(5)),
                None if nulls is None else _number(nulls),
                _start(described),
                _number(described.get(7)),
            )


def _start(described: dict[int, Any]) -> int:
    """Where the pages of a column begin; its dictionary, if it has one, comes first."""
    data, dictionary = _number(described.get(9)), _number(described.get(11, 0))
    return min(data, dictionary) if dictionary else data


def page_sizes(file: BinaryIO, columns: Collection[str]) -> Iterator[tuple[str, int]]:
    """For each page, the name of its column and the bytes that it claims to expand to.

    Arrow allocates these bytes, whatever the footer says.

    Args:
        file: a Parquet table.
        columns: names of those at the top that count.

    Raises:
        DamagedError: the footer or a page's header is damaged.
    """
    for chunk in list(chunks(file)):
        name = next((each for each in columns if f"{chunk.path}.".startswith(f"{each}.")), None)
        if name is not None and chunk.values:  # of none Arrow reads no page
            for page in pages(file, chunk.start, chunk.start + chunk.length):
                yield name, page.size


class Page(NamedTuple):
    """The claims in the header of a page."""

    size: int
    """Bytes of what it expands to."""
    stored: int
    """Bytes in the file."""


def pages(file: BinaryIO, start: int, end: int) -> Iterator[Page]:
    """The pages of a column of a row group, its dictionary among them.

    Args:
        file: a Parquet table.
        start: of the first one in the file.
        end: of the last one; it need not be the column's.

    Raises:
        DamagedError: a page's header is damaged, or a page ends behind its file.
    """
    at, size = start, file.seek(0, os.SEEK_END)
    while at < end:
        header, length = _page_header(file, at)
        page = Page(_number(header.get(2)), _number(header.get(3)))
        if page.stored > size - at - length:
            raise DamagedError("a page is longer than its file")  # Arrow takes the memory first
        yield page
        at += length + page.stored


def _page_header(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    """The header of a page, and its length."""
    for most in (1 << 10, _MOST_PAGE_HEADER_BYTES):  # it may hold the smallest and largest value
        file.seek(at)
        reader = _Reader(file.read(most))
        try:
            return reader.struct(), reader.read
        except DamagedError:
            continue
    raise DamagedError("a page's header is damaged")


def _list(fields: Any, number: int, kind: type = dict) -> list[Any]:
    found = fields.get(number, [])
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise DamagedError("it is not a Parquet footer")
    return found


def _number(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise DamagedError("a number in the footer is wrong")
    return value


class _Reader:
    """Reads Thrift's compact protocol. Raises DamagedError past the end, and if it is nested too deeply."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._depth = data, 0, 0

    @property
    def read(self) -> int:
        """Bytes of what was read."""
        return self._at

    def struct(self) -> dict[int, Any]:
        """Values by the numbers of their fields."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise DamagedError("the footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self._signed()
            kind = header & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._signed()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            header = self._byte()
            size = header >> 4 if header >> 4 < 15 else self._unsigned()
            return [self._value(header & 15) for _ in range(size)]
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise DamagedError("the footer is damaged")

    def _bytes(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise DamagedError("the footer ends too early")
        found, self._at = self._data[self._at : end], end
        return found

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DamagedError("a number in the footer is too long")

    def _signed(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
