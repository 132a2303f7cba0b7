"""Which column of a Parquet table holds images, and the bytes in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import parquet_footer, table_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.inputs.entries import Columns, SourceLimits

_MOST_ROWS = 16  # decoded at once
# Of a column in a store, whose pages' headers are looked at; further ones would cost a request each.
_REMOTE_HEADERS_BYTES = 4 << 20


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes, however they are stored."""
    if pa.types.is_dictionary(kind):
        return is_bytes(kind.value_type)
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def has_path(kind: pa.DataType) -> bool:
    """Whether values of this type name a file beside the bytes."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0)


def holds_images(kind: pa.DataType) -> bool:
    """Bytes, or what the library `datasets` writes for an image: its bytes and its path."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        if at >= 0 and pa.types.is_null(kind.field(at).type):  # none of them is there
            return has_path(kind)
        return at >= 0 and is_bytes(kind.field(at).type)
    return is_bytes(kind)


def default_column(schema: pa.Schema) -> str | None:
    """The column of images that is taken where none is named, or None.

    `bytes`, else `image` of bytes or of bytes and paths, else the only column of bytes and paths.
    """
    sound = [f.name for f in schema if holds_images(f.type) and schema.names.count(f.name) == 1]
    for wanted in ("bytes", "image"):
        if wanted in sound:
            return wanted
    structs = [name for name in sound if pa.types.is_struct(schema.field(name).type)]
    return structs[0] if len(structs) == 1 else None


def image_column(schema: pa.Schema, columns: Columns, table: str) -> str | None:
    """The column that holds the images themselves; None for a table of URIs.

    Raises:
        UserInputError: there is no such column, or there are several of its name.
    """
    if columns.uri_column is not None:
        name = schema.names[table_columns.choose_uri(schema.names, columns, table)]
        if schema.names.count(name) > 1:
            raise UserInputError(f"{table}: it has {schema.names.count(name)} columns {name}")
        return name if holds_images(schema.field(name).type) else None
    for name in ("bytes", "image"):
        kinds = [field.type for field in schema if field.name == name]
        if len(kinds) > 1:
            raise UserInputError(f"{table}: it has {len(kinds)} columns {name}")
    return default_column(schema)


def is_elsewhere(file: BinaryIO, schema: pa.Schema, column: str) -> bool:
    """Whether a column of bytes and paths has no bytes at all: its images are where the paths lead.

    Args:
        file: a Parquet table.
        schema: its columns.
        column: of images.

    Raises:
        parquet_footer.DamagedError: its footer is not one.
    """
    kind = schema.field(column).type
    if not has_path(kind):
        return False
    if pa.types.is_null(kind.field(kind.get_field_index("bytes")).type):
        return True  # its chunks have no count of nulls
    leaf = leaf_of(schema, column)
    return all(
        chunk.nulls == chunk.values for chunk in parquet_footer.chunks(file) if chunk.path == leaf
    )


def leaf_of(schema: pa.Schema, column: str) -> str:
    """The name under which Parquet reads the bytes of a column alone."""
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def values_of(column: str, batch: pa.RecordBatch) -> pa.Array[Any]:
    """The bytes of a batch that was read of such a column."""
    values = batch.column(column)
    if pa.types.is_struct(values.type):
        values = pc.struct_field(values, "bytes")
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values


class PagesOfImages:
    """What the pages of a column of images claim, of each row group.

    Args:
        file: a Parquet table.
        leaf: by `leaf_of`.
        limits: the largest image, and how far a page may expand.
        local: whether the file is on this machine; of others the first pages are looked at.

    Raises:
        parquet_footer.DamagedError: its footer is not one.
    """

    def __init__(self, file: BinaryIO, leaf: str, limits: SourceLimits, *, local: bool) -> None:
        self._file, self._limits = file, limits
        self._most = sys.maxsize if local else _REMOTE_HEADERS_BYTES
        # Not as Arrow tells: it ends the process over some damaged footers.
        chunks = parquet_footer.chunks(file)
        self._chunks = {each.group: each for each in chunks if each.path == leaf and each.values}

    def rows_at_once(self, group: int) -> int:
        """How many images of a row group may be decoded together, in memory that no stranger decides.

        Each may be all that a page holds: as an entry of a dictionary, or as what values begin with.

        Raises:
            ImageRejected: a page claims more than its bytes can be (`too-large`), or has no sound
                header (`unreadable`).
        """
        largest, most = 1, self._limits.max_bytes
        try:
            for page in self._pages(group):
                if page.size > max(2 * most, self._limits.max_expansion * page.stored):
                    raise ImageRejected(
                        ErrorCode.TOO_LARGE,
                        f"A page of the table has {page.stored:,} bytes, and expands to "
                        f"{page.size:,}.",
                    )
                largest = max(largest, page.size)
        except parquet_footer.DamagedError as error:
            raise ImageRejected(ErrorCode.UNREADABLE, f"The table is damaged: {error}.") from error
        return max(1, min(_MOST_ROWS, most // largest))

    def _pages(self, group: int) -> Iterator[parquet_footer.Page]:
        chunk = self._chunks.get(group)
        if chunk is not None:
            end = chunk.start + min(chunk.length, self._most)
            yield from parquet_footer.pages(self._file, chunk.start, end)
