"""Columns of the user's tables that are copied into the results."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import image_columns, parquet_footer, table_columns, tables
from catdog.inputs.entries import Columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from catdog.inputs.entries import SourceLimits, Work

KEPT = "kept"
"""The column of entries, behind those of `PLAN_SCHEMA`: a struct with a field for each column."""
ALL = "all"
SAMPLE_COLUMNS = ("cls", "json", "txt")
"""Extensions of the members of a WebDataset sample whose text may be kept."""


def type_of_tables(
    uris: Sequence[str],
    names: Sequence[str],
    columns: Columns,
    limits: SourceLimits,
    *,
    beside: Sequence[str] = (),
    samples: bool = False,
) -> pa.StructType:
    """The type of `KEPT` where these columns of these tables are kept.

    Args:
        uris: of the tables.
        names: of the columns; `all` for each that does not name the images or hold them.
        columns: which ones name the images.
        limits: what a table may cost.
        beside: tables of image folders, beside their images.
        samples: whether there are archives, whose samples may have texts.

    Raises:
        UserInputError: a table cannot be read, none has one of them, or two have it with different
            types.
    """
    found: dict[str, pa.Field[Any]] = {}
    every = ALL in names
    schemas = []
    for uri in uris:
        with storage.blamed_on(uri):
            schemas.append((uri, _schema(uri, columns, limits, every=every)))
    for uri in beside:
        # It may be about something else, but that is unknown if it cannot be read.
        with storage.blamed_on(uri), contextlib.suppress(UserInputError):
            told = Columns("file_name", columns.label_column)
            schemas.append((uri, _schema(uri, told, limits, every=every)))
    for uri, fields in schemas:
        for field in fields:
            if ALL not in names and field.name not in names:
                continue
            before = found.setdefault(field.name, field)
            if before.type != field.type:
                raise UserInputError(
                    f"--keep {field.name}: is {field.type} in {uri}, and {before.type} in another table"
                )
    for name in SAMPLE_COLUMNS if samples else ():
        if name in names:
            found.setdefault(name, pa.field(name, pa.string()))
    for name in names:
        if name != ALL and name not in found:
            raise UserInputError(f"--keep {name}: no table among the inputs has such a column")
    if not found:
        raise UserInputError("--keep all: no table among the inputs has columns to keep")
    return pa.struct(list(found.values()))


def _schema(uri: str, columns: Columns, limits: SourceLimits, *, every: bool) -> list[Any]:
    """The fields of a table; without `every`, the one that names or holds the images, too."""
    if uri.lower().endswith(".parquet"):
        with parquet_footer.opened(uri, None) as (_, table):
            schema = table.schema_arrow
        image = image_columns.image_column(schema, columns, uri)
    else:
        schema, image = tables.schema(uri, columns, limits), None
    if image is None:
        image = schema.names[table_columns.choose_uri(schema.names, columns, uri)]
    kinds = {field.name: field.type for field in schema}
    return [
        pa.field(name, kind.value_type if pa.types.is_dictionary(kind) else kind)
        for name, kind in kinds.items()
        if not (every and name == image)
    ]


def of_batch(batch: pa.RecordBatch, kind: pa.StructType) -> pa.StructArray:
    """The kept columns of rows of a Parquet table; null where it has no such column."""
    arrays = []
    for field in kind:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(batch.schema.get_field_index(field.name))
        decoded = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        arrays.append(decoded)
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


def with_values(
    batch: pa.RecordBatch, values: Sequence[Any], kind: pa.StructType
) -> pa.RecordBatch:
    """Entries with what is kept of each: a dictionary by column, an Arrow scalar, or None."""
    return batch.append_column(pa.field(KEPT, kind), pa.array(values, kind))


def with_nothing(batch: pa.RecordBatch, kind: pa.StructType) -> pa.RecordBatch:
    """Entries of what is no table."""
    if KEPT in batch.schema.names:
        return batch
    return batch.append_column(pa.field(KEPT, kind), pa.nulls(batch.num_rows, kind))


def with_one(work: Work, value: Any, kind: pa.StructType) -> Work:
    """All rows that a table's row leads to, with what is kept of it."""
    if isinstance(work, pa.RecordBatch):
        return with_values(work, [value] * work.num_rows, kind)
    return partial(_each_with, work, value, kind)


def _each_with(work: Any, value: Any, kind: pa.StructType) -> Iterator[pa.RecordBatch]:
    for batch in work():
        yield with_values(batch, [value] * batch.num_rows, kind)
