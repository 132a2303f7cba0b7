"""Parquet tables: of URIs, or of the images themselves."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.errors import UserInputError, without_secrets
from catdog.inputs import archives, image_columns, kept, parquet_footer, table_columns, tables
from catdog.inputs.entries import BATCH_ROWS, Columns, Row, SourceLimits, to_batch
from catdog.inputs.lists import Chunk, EntryList, EntryReader
from catdog.inputs.names import label_of
from catdog.inputs.text_lines import MAX_LINE
from catdog.inputs.unique import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from catdog.inputs.entries import Work

    # A value of a column of text; what is wrong with it where it is none.
    _Text: TypeAlias = str | ValueError | None

# Of columns that are read in the driver. Writers make pages of a megabyte, few of a hundred.
_MOST_PAGE_BYTES = 256 << 20
_MOST_BATCH_BYTES = 1 << 30
_LARGE_BATCH_BYTES = 8 << 20  # is not put together with others

FOLDER_KEY = b"catdog.folder"
"""In a table's metadata: URI of the folder that its paths start from, where that is not its own."""


class ParquetTable:
    """A Parquet table as an input.

    Args:
        uri: of the table.
        stamp: of the file, as it was found.
        limits: what it may cost.
        columns: which ones count.
        reader: turns what it names into rows.
    """

    def __init__(
        self,
        uri: str,
        stamp: str | None,
        limits: SourceLimits,
        columns: Columns,
        reader: EntryReader,
    ) -> None:
        self._stamp = stamp
        self._uri, self._limits, self._columns, self._reader = uri, limits, columns, reader

    def works(self) -> Iterator[Work]:
        """Rows, and the folders and archives among them.

        Raises:
            UserInputError: it is damaged, or its columns are not those of a table of images.
        """
        import pyarrow.parquet as pq

        try:
            with storage.open_input(self._uri, self._stamp) as file, pq.ParquetFile(file) as table:
                column = image_columns.image_column(table.schema_arrow, self._columns, self._uri)
                if column is not None and not image_columns.is_elsewhere(
                    file, table.schema_arrow, column
                ):
                    yield from self._images(file, table, column)
                else:
                    chunks = self._chunks(file, table, column)
                    folder = _folder(table.schema_arrow)
                    yield from EntryList(self._uri, chunks, self._reader, folder).works()
        except (*parquet_footer.DAMAGE, OSError) as error:
            if storage.is_of_disk(error):
                raise
            raise UserInputError(f"{self._uri}: it is no Parquet table, or damaged") from error

    def _chunks(self, file: BinaryIO, table: Any, images: str | None) -> Iterator[Chunk]:
        """What a table of URIs names.

        Args:
            file: the table.
            table: the same, a ParquetFile.
            images: a column of images that are all elsewhere, at its `path`.
        """
        schema = table.schema_arrow
        if images is None:
            at, label_at = table_columns.choose(schema.names, self._columns, self._uri)
            column = root = schema.names[at]
            _check_text(schema.field(at), self._uri)
        else:
            column, root = f"{images}.path", images
            label_at = self._label_at(schema)
        labels = _Labels(schema, label_at, self._uri)
        wanted = [column, *labels.columns, *self._kept_columns(schema)]
        total, most = table.metadata.num_rows, self._limits.max_expansion * self._size
        if total > most:
            raise UserInputError(
                f"{self._uri}: it claims {total:,} rows, more than {self._limits.max_expansion} a byte"
            )
        row = 0
        for batch in _bounded(file, table, wanted, self._uri, self._most_bytes()):
            read = batch.column(root)
            named = pc.struct_field(read, "path") if images is not None else read
            keep = self._reader.keep
            values = [None] * batch.num_rows if keep is None else kept.of_batch(batch, keep)
            yield _chunk(row, named, list(labels.of(batch)), values)
            row += batch.num_rows

    @functools.cached_property
    def _size(self) -> int:
        return storage.size_and_stamp(self._uri)[0]

    def _most_bytes(self) -> int:
        return max(archives.BOMB_FLOOR_BYTES, self._limits.max_expansion * self._size)

    def _kept_columns(self, schema: pa.Schema) -> list[str]:
        keep = self._reader.keep
        return [field.name for field in keep or () if field.name in schema.names]

    def _label_at(self, schema: pa.Schema) -> int | None:
        return table_columns.choose_label(schema.names, self._columns, self._uri)

    def _images(self, file: BinaryIO, table: Any, column: str) -> Iterator[pa.RecordBatch]:
        """Rows of a table that holds the images themselves."""
        schema, total = table.schema_arrow, table.metadata.num_rows
        most = self._limits.max_archive_members
        if total > min(most, self._size):
            raise UserInputError(
                f"{self._uri}: it claims {total:,} images; that is more than it has bytes, or than "
                f"--max-archive-members {most:,}"
            )
        codec = "row" if column == image_columns.default_column(schema) else f"row:{column}"
        labels = _Labels(schema, self._label_at(schema), self._uri)
        names = [n for n in ("uri", "name") if n in schema.names and n != column]
        for name in names:
            _check_text(schema.field(name), self._uri)
        pathed = image_columns.has_path(schema.field(column).type)
        wanted = [*([f"{column}.path"] if pathed else []), *names, *labels.columns]
        wanted = list(dict.fromkeys([*wanted, *self._kept_columns(schema)]))
        keep = self._reader.keep
        seen = Seen()  # two rows with one URI are two images: the later ones go by their number
        row = 0
        batches = _bounded(file, table, wanted, self._uri, self._most_bytes())
        for batch, count in _batches(batches, wanted, total):
            given = _Given(batch, count, names, column if pathed else None)
            shown = given.uris(seen)
            told = [None] * count if batch is None else labels.of(batch)
            rows = to_batch(
                [
                    self._row(row + at, shown[at], given.names[at], label, codec)
                    for at, label in enumerate(told)
                ]
            )
            if keep is not None and batch is not None:
                rows = rows.append_column(pa.field(kept.KEPT, keep), kept.of_batch(batch, keep))
            yield rows
            row += count

    def _row(
        self, number: int, shown: str | None, name: str | None, label: _Text, codec: str
    ) -> Row:
        uri = shown or f"parquet://{number}::{self._uri}"
        own_name = name or (shown.rpartition("://")[2].lstrip("/") if shown else "")
        if isinstance(label, ValueError):
            error, detail = "unreadable", f"The label in row {number} {label}."
            return Row(uri, own_name or str(number), None, error=error, error_detail=detail)
        if label is None and name:
            label = label_of(name)
        return Row(
            uri, own_name or str(number), label, self._uri, number, stamp=self._stamp, codec=codec
        )


def _bounded(
    file: BinaryIO, table: Any, wanted: Sequence[str], uri: str, most: int
) -> Iterator[pa.RecordBatch]:
    """Batches of these columns, in memory that a stranger's table does not decide.

    A page takes what its header claims, whatever the footer says. And all of it may be one value
    that stands in each row: as a dictionary, or as what the values begin with.

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
    for batch in table.iter_batches(rows, columns=columns):
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


def _batches(
    batches: Iterator[pa.RecordBatch], wanted: Sequence[str], total: int
) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """Batches of these columns, with their numbers of rows; of no columns, numbers alone."""
    row = 0
    if not wanted:
        for row in range(0, total, BATCH_ROWS):
            yield None, min(BATCH_ROWS, total - row)
        return
    for batch in batches:
        if batch.num_rows:
            row += batch.num_rows
            yield batch, batch.num_rows
    if row != total:
        raise pa.ArrowInvalid("the table has other numbers of rows than it claims")


class _Given:
    """What a batch says of the names of its images."""

    def __init__(
        self, batch: pa.RecordBatch | None, count: int, names: Sequence[str], images: str | None
    ) -> None:
        nothing: list[str | None] = [None] * count
        columns: dict[str, list[str | None]] = {"uri": nothing, "name": nothing}
        if batch is not None:
            if images is not None:
                paths = pc.struct_field(batch.column(images), "path")
                columns["name"] = [_sound(text) for text in texts(paths)]
            for name in names:
                columns[name] = [_sound(text) for text in texts(batch.column(name))]
        self.names = columns["name"]
        self._uris = columns["uri"]

    def uris(self, seen: Seen) -> list[str | None]:
        """What the rows are called, where no other row was called that before."""
        if not any(self._uris):
            return self._uris
        first = seen.add(pa.array(self._uris, pa.string()))
        return [uri if new else None for uri, new in zip(self._uris, first, strict=True)]


def _sound(text: _Text) -> str | None:
    return without_secrets(text) if isinstance(text, str) else None


class _Labels:
    """The labels of a table's rows."""

    def __init__(self, schema: pa.Schema, at: int | None, table: str) -> None:
        self.columns: list[str] = []
        self._names: list[str] = []
        if at is not None:
            field = schema.field(at)
            several = _is_list(field.type)
            _check_text(field.with_type(field.type.value_type) if several else field, table)
            self.columns = [field.name]
            if pa.types.is_integer(field.type):
                self._names = table_columns.label_names(schema.metadata, field.name)

    def of(self, batch: pa.RecordBatch) -> Iterator[_Text]:
        """A label for each row; an exception for one that is damaged."""
        if not self.columns:
            return iter([None] * batch.num_rows)
        column = batch.column(self.columns[0])
        return map(self._named, _joined(column) if _is_list(column.type) else texts(column))

    def _named(self, label: _Text) -> _Text:
        if self._names and isinstance(label, str) and label.isdigit():
            return self._names[int(label)] if int(label) < len(self._names) else label
        return label.strip() or None if isinstance(label, str) else label


def _joined(column: pa.Array[Any]) -> Iterator[_Text]:
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


def _folder(schema: pa.Schema) -> str | None:
    folder = (schema.metadata or {}).get(FOLDER_KEY, b"").decode(errors="replace")
    return folder if folder.startswith("file:///") and folder.endswith("/") else None


def _chunk(row: int, named: pa.Array[Any], labels: list[_Text], values: Any) -> Chunk:
    """Some rows of a table, from number `row` on."""
    as_text = functools.cache(lambda: texts(named))  # where one of them is to be looked at

    def entry(at: int) -> tables.Entry:
        return _entry(row + at, as_text()[at], labels[at], values[at])

    sound = [label for label in labels if not isinstance(label, ValueError)]
    quick = pa.types.is_string(named.type) or pa.types.is_large_string(named.type)
    quick = quick and _longest(named) <= MAX_LINE
    if not quick or len(sound) < len(labels):
        return Chunk(pa.nulls(len(labels), pa.string()), [None] * len(labels), values, entry)
    return Chunk(named.cast(pa.string()), sound, values, entry)


def _entry(row: int, text: _Text, label: _Text, value: Any) -> tables.Entry:
    place = f"row={row}"
    for what, given in (("URI", text), ("label", label)):
        if isinstance(given, ValueError):
            return tables.wrong(place, f"The {what} in row {row} of the table {given}.", value)
    assert not isinstance(text, ValueError)  # noqa: S101 - for mypy
    assert not isinstance(label, ValueError)  # noqa: S101 - likewise
    if not text or not text.strip():
        return tables.wrong(place, f"Row {row} of the table has no URI.", value)
    return tables.Entry(place, text.strip(), label, None, value)


def texts(column: pa.Array[Any]) -> list[_Text]:
    """The values of a column of text, bytes or numbers, as text."""
    if pa.types.is_dictionary(column.type):
        # Each once, however often it stands there.
        used = pc.unique(column.indices.drop_null())
        known = dict(zip(used.to_pylist(), texts(column.dictionary.take(used)), strict=True))
        return [known.get(at) for at in column.indices.to_pylist()]
    kind = column.type
    if _is_stringy(kind):  # whose bytes are checked one by one
        column = column.cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
    elif not image_columns.is_bytes(kind):
        return cast("list[_Text]", column.cast(pa.string()).to_pylist())
    if _longest(column) <= MAX_LINE:
        return [_text(value) for value in column.to_pylist()]
    return [_bounded_text(value) for value in column]


def _longest(column: pa.Array[Any]) -> int:
    """Bytes of the longest value."""
    return pc.max(pc.binary_length(column)).as_py() or 0 if len(column) else 0


def _bounded_text(value: Any) -> _Text:
    buffer = value.as_buffer()
    if buffer is not None and buffer.size > MAX_LINE:
        return ValueError(f"has more than {MAX_LINE:,} bytes")
    return _text(value.as_py())


def _text(value: bytes | None) -> _Text:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return ValueError("is not valid UTF-8")


def _check_text(field: pa.Field[Any], table: str) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if not (
        _is_stringy(kind)
        or image_columns.is_bytes(kind)
        or pa.types.is_integer(kind)
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
