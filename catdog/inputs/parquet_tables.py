"""Parquet tables: of URIs, or of the images themselves."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.errors import UserInputError, without_secrets
from catdog.inputs import (
    archives,
    image_columns,
    kept,
    parquet_footer,
    parquet_rows,
    table_columns,
    tables,
)
from catdog.inputs.entries import BATCH_ROWS, Columns, Row, SourceLimits, to_batch
from catdog.inputs.lists import Chunk, EntryList, EntryReader
from catdog.inputs.names import label_of
from catdog.inputs.text_lines import MAX_LINE
from catdog.inputs.unique import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from catdog.inputs.entries import Work
    from catdog.inputs.parquet_rows import Text


FOLDER_KEY = b"catdog.folder"
"""In a table's metadata: URI of the folder that its paths start from, where that is not its own."""


class ParquetTable:
    """A Parquet table as an input.

    Args:
        uri: of the table.
        stamp: of the file, as it was found.
        limits: what it may cost.
        columns: which ones count.
        keep: the columns to keep.
    """

    def __init__(
        self,
        uri: str,
        stamp: str | None,
        limits: SourceLimits,
        columns: Columns,
        keep: pa.StructType | None,
    ) -> None:
        self._stamp = stamp
        self._uri, self._limits, self._columns, self._keep = uri, limits, columns, keep

    def works(self, reader: EntryReader) -> Iterator[Work]:
        """Rows, and the folders and archives among them.

        Args:
            reader: turns what it names into rows.

        Raises:
            UserInputError: it is damaged, or its columns are not those of a table of images.
        """
        with parquet_footer.opened(self._uri, self._stamp) as (file, table):
            schema = table.schema_arrow
            column = image_columns.image_column(schema, self._columns, self._uri)
            if column is not None and not image_columns.is_elsewhere(file, schema, column):
                yield from self._images(file, table, column)
            else:
                chunks = self._chunks(file, table, column)
                yield from EntryList(self._uri, chunks, reader, _folder(schema)).works()

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
            parquet_rows.check_text(schema.field(at), self._uri)
        else:
            column, root = f"{images}.path", images
            label_at = self._label_at(schema)
        labels = parquet_rows.Labels(schema, label_at, self._uri)
        wanted = [column, *labels.columns, *self._kept_columns(schema)]
        total, most = table.metadata.num_rows, self._limits.max_expansion * self._size
        if total > most:
            raise UserInputError(
                f"{self._uri}: it claims {total:,} rows, more than {self._limits.max_expansion} a byte"
            )
        row = 0
        for batch in parquet_rows.bounded(file, table, wanted, self._uri, self._most_bytes()):
            read = batch.column(root)
            named = pc.struct_field(read, "path") if images is not None else read
            keep = self._keep
            values = [None] * batch.num_rows if keep is None else kept.of_batch(batch, keep)
            yield _chunk(row, named, list(labels.of(batch)), values)
            row += batch.num_rows

    @functools.cached_property
    def _size(self) -> int:
        return storage.size_and_stamp(self._uri)[0]

    def _most_bytes(self) -> int:
        return max(archives.BOMB_FLOOR_BYTES, self._limits.max_expansion * self._size)

    def _kept_columns(self, schema: pa.Schema) -> list[str]:
        keep = self._keep
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
        labels = parquet_rows.Labels(schema, self._label_at(schema), self._uri)
        names = [n for n in ("uri", "name") if n in schema.names and n != column]
        for name in names:
            parquet_rows.check_text(schema.field(name), self._uri)
        pathed = image_columns.has_path(schema.field(column).type)
        wanted = [*([f"{column}.path"] if pathed else []), *names, *labels.columns]
        wanted = list(dict.fromkeys([*wanted, *self._kept_columns(schema)]))
        keep = self._keep
        seen = Seen()  # two rows with one URI are two images: the later ones go by their number
        row = 0
        batches = parquet_rows.bounded(file, table, wanted, self._uri, self._most_bytes())
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
        self, number: int, shown: str | None, name: str | None, label: Text, codec: str
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
                columns["name"] = [_sound(text) for text in parquet_rows.texts(paths)]
            for name in names:
                columns[name] = [_sound(text) for text in parquet_rows.texts(batch.column(name))]
        self.names = columns["name"]
        self._uris = columns["uri"]

    def uris(self, seen: Seen) -> list[str | None]:
        """What the rows are called, where no other row was called that before."""
        if not any(self._uris):
            return self._uris
        first = seen.add(pa.array(self._uris, pa.string()))
        return [uri if new else None for uri, new in zip(self._uris, first, strict=True)]


def _sound(text: Text) -> str | None:
    return without_secrets(text) if isinstance(text, str) else None


def _folder(schema: pa.Schema) -> str | None:
    folder = (schema.metadata or {}).get(FOLDER_KEY, b"").decode(errors="replace")
    return folder if folder.startswith("file:///") and folder.endswith("/") else None


def _chunk(row: int, named: pa.Array[Any], labels: list[Text], values: Any) -> Chunk:
    """Some rows of a table, from number `row` on."""
    as_text = functools.cache(
        lambda: parquet_rows.texts(named)
    )  # where one of them is to be looked at

    def entry(at: int) -> tables.Entry:
        return parquet_rows.entry(row + at, as_text()[at], labels[at], values[at])

    sound = [label for label in labels if not isinstance(label, ValueError)]
    quick = pa.types.is_string(named.type) or pa.types.is_large_string(named.type)
    quick = quick and parquet_rows.longest(named) <= MAX_LINE
    if not quick or len(sound) < len(labels):
        return Chunk(pa.nulls(len(labels), pa.string()), [None] * len(labels), values, entry)
    return Chunk(named.cast(pa.string()), sound, values, entry)
