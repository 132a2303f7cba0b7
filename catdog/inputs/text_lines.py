"""The lines of a list or table: UTF-8, UTF-16 or UTF-32, gzip-compressed or not, of any length."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import archives

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from catdog.inputs.entries import SourceLimits

MAX_LINE = 64 << 10
"""Letters; what is longer is no line."""
# What files named as text are in truth.
_OTHERS = (
    (b"BZh", "compressed with bzip2; of the compressions gzip alone is read"),
    (b"\xfd7zXZ", "compressed with xz; of the compressions gzip alone is read"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; of the compressions gzip alone is read"),
    (b"PK\3\4", "a zip or a workbook of Excel: save it as CSV"),
    (b"PAR1", "a Parquet table: name it .parquet"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG", "a PNG"),
)
SPACE = " \t\r\n\ufeff"
"""Characters around a value that do not count."""

_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


class Lines:
    """The lines of a text file, without a byte order mark; None for one that is too long.

    Bytes that are not text in the file's encoding become surrogates; they cost only their own line.

    Args:
        uri: of the file.
        limits: how far it may expand.
        newline: as for `io.TextIOWrapper`.

    Raises:
        UserInputError: it is a file of another kind.
        ImageRejected, UnicodeError: while going through them: the file is damaged from there on.
    """

    def __init__(self, uri: str, limits: SourceLimits, newline: str) -> None:
        self.number = 0
        """Of the line that was given last, from 1."""
        self.ended = False
        """Whether one more was asked for than there are."""
        binary = _decompressed(uri, limits)
        try:
            _refuse_others(uri, binary)
            encoding = _encoding(binary)
        except BaseException:
            binary.close()
            raise
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        # Old programs of the Mac end lines so; elsewhere it may be a letter of a name.
        head = binary.peek(1)
        if b"\r" in head and b"\n" not in head:
            newline = ""
        self._ends = ("\n", "\r") if newline == "" else "\n"
        self._text = io.TextIOWrapper(binary, encoding, errors=errors, newline=newline)

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def __iter__(self) -> Iterator[str | None]:
        return self

    def __next__(self) -> str | None:
        line = self._text.readline(MAX_LINE)
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        if len(line) < MAX_LINE or line.endswith(self._ends):
            return line
        while (rest := self._text.readline(MAX_LINE)) and not rest.endswith(self._ends):
            pass
        return None


def _refuse_others(uri: str, binary: io.BufferedReader) -> None:
    head = binary.peek(8)
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise UserInputError(f"{uri}: it is not text, but {what}")


def _encoding(binary: io.BufferedReader) -> str:
    head = binary.peek(4)[:4]
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    # A table begins with the letters of a column's name, a list mostly with one of a path.
    if len(head) == 4 and head[1::2] == b"\0\0" and head[0] and head[2]:
        return "utf-16-le"
    if len(head) == 4 and head[::2] == b"\0\0" and head[1] and head[3]:
        return "utf-16-be"
    return "utf-8"


def _decompressed(uri: str, limits: SourceLimits) -> io.BufferedReader:
    file: BinaryIO = storage.open_input(uri)
    try:
        if file.read(2) == b"\x1f\x8b":
            file.close()
            return io.BufferedReader(_Gzip(uri, limits), 1 << 18)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    assert isinstance(file, io.BufferedReader)  # noqa: S101 - of `storage.open_input`, for mypy
    return file


class _Gzip(io.RawIOBase):
    """What a gzip file expands to, within the limit of expansion."""

    def __init__(self, uri: str, limits: SourceLimits) -> None:
        self._file = archives.FileBytes(uri)
        self._stream = archives.GzipBytes(self._file, limits.max_expansion)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read_some(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
