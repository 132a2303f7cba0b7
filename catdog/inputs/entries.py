"""The plan's schema and the limits of inputs: the leaf that all files of this room share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa

from catdog import storage
from catdog.errors import UserInputError, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIELDS: list[pa.Field[Any]] = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("container", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("size", pa.int64()),
    pa.field("stamp", pa.string()),
    pa.field("codec", pa.string()),
    pa.field("error", pa.string()),
    pa.field("error_detail", pa.string()),
    pa.field("given", pa.string()),  # what a list or table calls it, where that is not its URI
]
PLAN_SCHEMA = pa.schema(_FIELDS)
BATCH_ROWS = 10_000

_LABELS_IN = ("cls", "txt", "json")
_NO_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class SourceLimits:
    """How much an input may cost, however hostile it is."""

    max_bytes: int = 128 << 20
    """Largest encoded image in bytes. Larger ones are rejected as `too-large`, unread if possible."""

    max_archive_members: int = 50_000_000
    """Largest number of members per archive; the rest becomes one row `too-large`."""

    max_expansion: int = 200
    """Largest expansion of a `.tar.gz` or a table, as a multiple of its size (beyond the first GiB)."""

    bytes_in_flight: int = 256 << 20
    """Bytes of encoded images to read ahead. A single larger image is still read."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table name the images and their labels."""

    uri_column: str | None = None
    """Column of a table with paths, URIs or image bytes. (default: `uri`, `path` and the like)"""

    label_column: str | None = None
    """Column of a table with labels. (default: `label`)"""

    label_from: str | None = None
    """Source of WebDataset labels: `cls` or `txt` is the text of the member with that extension,
    `json:KEY` a value of the `.json` member."""

    pages: bool = False
    """Take every page of a TIFF as an image, instead of the first only. In archives, always the
    first only."""

    def __post_init__(self) -> None:
        extension, colon, key = (self.label_from or "cls").partition(":")
        sound = bool(key) if extension == "json" else not colon
        if extension not in _LABELS_IN or not sound:
            raise UserInputError(
                f"--label-from {self.label_from}: must be cls, txt or json:KEY with a name for KEY"
            )


class Row(NamedTuple):
    """One entry; the fields of PLAN_SCHEMA."""

    uri: str
    name: str
    label: str | None = None
    container: str | None = None
    offset: int | None = None
    length: int | None = None
    size: int | None = None
    stamp: str | None = None
    codec: str | None = "file"
    error: str | None = None
    error_detail: str | None = None
    given: str | None = None


# An input becomes rows, or work that gives rows and can be done ahead of its turn.
Work: TypeAlias = "pa.RecordBatch | Callable[[], Iterator[pa.RecordBatch]]"


def to_batch(rows: list[Row]) -> pa.RecordBatch:
    """The rows with PLAN_SCHEMA."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PLAN_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PLAN_SCHEMA)


def error_row(uri: str, name: str, error: Exception) -> Row:
    """The row of something that cannot be read, without the credentials that lists may hold."""
    code, detail = storage.error_code(error).value, storage.error_detail(error)
    if (wrong := _NO_CHARACTER.search(uri)) is not None:
        # No other file has the URI that is shown: a canonical one has no `/./`.
        start = uri.rfind("/", 0, wrong.start()) + 1
        uri = f"{uri[:start]}./{uri[start:]}"
    uri, name, detail = (without_secrets(shown(text)) for text in (uri, name, detail))
    return Row(uri, name, None, error=code, error_detail=detail)


def file_row(
    uri: str,
    name: str,
    label: str | None = None,
    size: int | None = None,
    stamp: str | None = None,
) -> Row:
    """The row of a file by itself."""
    shown_uri = storage.openable(uri)
    return Row(shown_uri, name, label, None if shown_uri == uri else uri, size=size, stamp=stamp)


def as_given(row: Row, text: str) -> Row:
    """The row of an entry in a list or table; results show its text, but never credentials."""
    if text == row.uri or not is_text(text) or without_secrets(text) != text:
        return row
    return row._replace(given=text)


def is_text(name: str) -> bool:
    """Whether a name from the system or a file is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    r"""A name as text, each byte that is not UTF-8 as U+FFFD and `\xNN`.

    Without the U+FFFD, the name whose text is a backslash, `x`, `f`, `f` would look the same. A lone
    surrogate, which JSON and UTF-16 can spell, becomes U+FFFD and `\uNNNN`.
    """
    return name if is_text(name) else _NO_CHARACTER.sub(_spelled, name)


def _spelled(char: re.Match[str]) -> str:
    code = ord(char[0])
    escaped = f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
    return f"\N{REPLACEMENT CHARACTER}{escaped}"


def rebatched(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of 10,000, however small or large they come."""
    kept: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        kept.append(batch)
        count += batch.num_rows
        if count >= BATCH_ROWS:
            table = pa.Table.from_batches(kept).combine_chunks()
            whole = count - count % BATCH_ROWS
            yield from table.slice(0, whole).to_batches(max_chunksize=BATCH_ROWS)
            # Copied, or the small rest would keep the large buffers alive.
            kept = table.slice(whole).combine_chunks().to_batches()
            count -= whole
    if count:
        yield from pa.Table.from_batches(kept).combine_chunks().to_batches()
