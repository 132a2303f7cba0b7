"""The values of Parquet tables' columns: text, labels, and the entries of a table of names."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import archives, image_columns, kept, parquet_footer, table_columns, tables
from catdog.inputs.entries import BATCH_ROWS, Columns, SourceLimits
from catdog.inputs.plain_types import without_views
from catdog.inputs.text_lines import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    # A value of a column of text; what is wrong with it where it is none.
    Text: TypeAlias = str | ValueError | None

# Of columns that are read in the driver. Writers make pages of a megabyte, few of a hundred.
_MOST_PAGE_BYTES = 256 << 20
_MOST_BATCH_BYTES = 1 << 30
_LARGE_BATCH_BYTES = 8 << 20  # is not put together with others


def entries(
    uri: str, columns: Columns, limits: SourceLimits, keep: pa.StructType | None = None
) -> Iterator[tables.Entry]:
    """The entry of each row of a table of names, as `tables.table_entries`."""
    with parquet_footer.opened(uri, None) as (file, table):
        schema = table.schema_arrow
        at, label_at = table_columns.choose(schema.names, columns, uri)
        check_text(schema.field(at), uri)
        labels = Labels(schema, label_at, uri)
        wanted = [schema.names[at], *labels.columns]
        wanted += [field.name for field in keep or () if field.name in schema.names]
        size = storage.size_and_stamp(uri)[0]
        most = max(archives.BOMB_FLOOR_BYTES, limits.max_expansion * size)
        row = 0
        for batch in bounded(file, table, wanted, uri, most):
            values = [None] * batch.num_rows if keep is None else kept.of_batch(batch, keep)
            named = texts(batch.column(schema.names[at]))
            for text, label, value in zip(named, labels.of(batch), values, strict=True):
                yield entry(row, text, label, value)
                row += 1


def bounded(
    file: BinaryIO, table: Any, wanted: Sequence[str], uri: str, most: int
) -> Iterator[pa.RecordBatch]:
    """Batches of these columns, in bounded memory whatever a stranger's table claims.

    A page takes the memory that its header claims, whatever the footer says. And one large value may be
    repeated in each row, as a dictionary entry or as a common prefix.

    Args:
        file: the table.
        table: the same, a ParquetFile.
        wanted: names of columns.
        uri: of the table.
        most: bytes that they may expand to.

    Raises:
        UserInputError: a page claims too much, or they expand to more.
    """
    columns = list(dict.fromkeys(wanted))
    largest = 1
    for name, size in parquet_footer.page_sizes(file, columns):
        if size > _MOST_PAGE_BYTES:
            raise UserInputError(
                f"{uri}: a page of its column {name} claims {size:,} bytes, more than "
                f"{_MOST_PAGE_BYTES:,}"
            )
        largest = max(largest, size)
    rows = max(1, min(BATCH_ROWS, _MOST_BATCH_BYTES // largest))
    waiting: list[pa.RecordBatch] = []
    # Arrow's threads would have little to do, and would keep some 40 MiB of freed memory.
    for stored in table.iter_batches(rows, columns=columns, use_threads=False):
        plain = without_views(stored.schema)
        batch = stored if plain.equals(stored.schema) else stored.cast(plain)
        most -= batch.nbytes
        if most < 0:
            raise UserInputError(
                f"{uri}: its columns {', '.join(columns)} expand to many times the size of the file"
            )
        waiting.append(batch)
        alone = batch.nbytes > _LARGE_BATCH_BYTES or any(
            map(pa.types.is_nested, batch.schema.types)
        )
        if alone or sum(map(len, waiting)) >= BATCH_ROWS:
            yield from _together(waiting)
            waiting = []
    yield from _together(waiting)


def _together(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The rows of these batches, in one where there are several."""
    if len(batches) < 2:
        return batches
    together: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return together


class Labels:
    """The labels of a table's rows."""

    def __init__(self, schema: pa.Schema, at: int | None, table: str) -> None:
        self.columns: list[str] = []
        self._names: list[str] = []
        if at is not None:
            field = schema.field(at)
            several = _is_list(field.type)
            check_text(
                field.with_type(field.type.value_type) if several else field,
                table,
                floats=not several,
            )
            self.columns = [field.name]
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
                self._names = table_columns.label_names(schema.metadata, field.name)

    def of(self, batch: pa.RecordBatch) -> Iterator[Text]:
        """A label for each row; an exception for one that is damaged."""
        if not self.columns:
            return iter([None] * batch.num_rows)
        column = batch.column(self.columns[0])
        return map(self._named, _joined(column) if _is_list(column.type) else texts(column))

    def _named(self, label: Text) -> Text:
        if self._names and isinstance(label, str) and label.isdigit():
            return self._names[int(label)] if int(label) < len(self._names) else label
        return label.strip() or None if isinstance(label, str) else label


def _joined(column: pa.Array[Any]) -> Iterator[Text]:
    """The labels of rows that have lists of them, each list as one text; null for null."""
    values = iter(texts(column.flatten()))
    for length in pc.list_value_length(column).to_pylist():
        each = list(itertools.islice(values, length or 0))
        damaged = next((text for text in each if isinstance(text, ValueError)), None)
        if damaged is not None or length is None:
            yield damaged
            continue
        text = table_columns.joined(each)
        long = len(text) > MAX_LINE
        yield ValueError(f"has more than {MAX_LINE:,} bytes") if long else text


def entry(row: int, text: Text, label: Text, value: Any) -> tables.Entry:
    """What a row names and tells, or what is wrong with it."""
    place = f"row={row}"
    for what, given in (("URI", text), ("label", label)):
        if isinstance(given, ValueError):
            return tables.wrong(place, f"The {what} in row {row} of the table {given}.", value)
    assert not isinstance(text, ValueError)  # noqa: S101 - for mypy
    assert not isinstance(label, ValueError)  # noqa: S101 - likewise
    if not text or not text.strip():
        return tables.wrong(place, f"Row {row} of the table has no URI.", value)
    return tables.Entry(place, text.strip(), label, None, value)


def texts(column: pa.Array[Any]) -> list[Text]:
    """The values of a column of text, bytes or numbers, as text."""
    if pa.types.is_dictionary(column.type):
        # Each value once, however often it occurs.
        used = pc.unique(column.indices.drop_null())
        known = dict(zip(used.to_pylist(), texts(column.dictionary.take(used)), strict=True))
        return [known.get(at) for at in column.indices.to_pylist()]
    kind = column.type
    if _is_stringy(kind):  # whose bytes are checked one by one
        column = column.cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
    elif pa.types.is_floating(kind):
        return [_class_number(value) for value in column.to_pylist()]
    elif not image_columns.is_bytes(kind):
        return cast("list[Text]", column.cast(pa.string()).to_pylist())
    if longest(column) <= MAX_LINE:
        return [_text(value) for value in column.to_pylist()]
    return [_bounded_text(value) for value in column]


def longest(column: pa.Array[Any]) -> int:
    """Bytes of the longest value."""
    return pc.max(pc.binary_length(column)).as_py() or 0 if len(column) else 0


def _bounded_text(value: Any) -> Text:
    buffer = value.as_buffer()
    if buffer is not None and buffer.size > MAX_LINE:
        return ValueError(f"has more than {MAX_LINE:,} bytes")
    return _text(value.as_py())


def _class_number(value: float | None) -> Text:
    """Whole numbers are numbers of classes, which pandas makes floats where one is missing (NaN)."""
    number = table_columns.class_number(value)
    return (
        ValueError(f"is {value}, which is not the number of a class") if number is False else number
    )


def _text(value: bytes | None) -> Text:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return ValueError("is not valid UTF-8")


def check_text(field: pa.Field[Any], table: str, *, floats: bool = False) -> None:
    """Raise UserInputError where a column is not of text, or of what stands for text."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if not (
        _is_stringy(kind)
        or image_columns.is_bytes(kind)
        or pa.types.is_integer(kind)
        or (floats and pa.types.is_floating(kind))
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise UserInputError(f"{table}: its column {field.name} is {field.type}, not text")


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list))


def _is_stringy(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )
