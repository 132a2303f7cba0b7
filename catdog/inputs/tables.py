"""Lists and tables: what their lines and rows name, or the images that they hold."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs.entries import BATCH_ROWS, Row, to_batch
from catdog.inputs.names import label_of
from catdog.inputs.unique import Seen

_MAX_LINE_BYTES = 64 << 10

# Path or URI, and label; or what is wrong there.
Entries = Iterator[tuple[str, str | None] | Exception]


def lines(uri: str) -> Entries:
    """What a list names, a line each."""
    with storage.open_input(uri) as file:
        first = True
        while line := file.readline(_MAX_LINE_BYTES):
            if len(line) == _MAX_LINE_BYTES:
                yield ImageRejected(
                    ErrorCode.UNREADABLE, "A line of the list is too long; later ones are lost."
                )
                return
            if first:
                line = line.removeprefix(b"\xef\xbb\xbf")
                first = False
            line = line.rstrip(b"\r\n")
            if line.strip() and not line.startswith(b"#"):
                yield os.fsdecode(line), None


def csv_rows(uri: str) -> Entries:
    """What a CSV table names.

    Raises:
        UserInputError: it has no column of URIs.
    """
    with io.TextIOWrapper(
        storage.open_input(uri), "utf-8-sig", errors="surrogateescape", newline=""
    ) as text:
        rows = csv.reader(_short_lines(text))
        header = [name.strip() for name in next(rows, [])]
        if "uri" not in header:
            raise UserInputError(f"{uri}: a table needs a column uri in its first line")
        uri_at = header.index("uri")
        label_at = header.index("label") if "label" in header else None
        try:
            for row in rows:
                if len(row) > uri_at and row[uri_at]:
                    label = row[label_at] if label_at is not None and len(row) > label_at else None
                    yield row[uri_at], label or None
                elif row:
                    yield ImageRejected(
                        ErrorCode.UNREADABLE, f"Line {rows.line_num} of the table has no URI."
                    )
        except csv.Error:
            yield ImageRejected(
                ErrorCode.UNREADABLE,
                f"Line {rows.line_num} of the table is damaged; later ones are lost.",
            )


def _short_lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines that fit the memory. Raises csv.Error at one that does not."""
    while line := text.readline(_MAX_LINE_BYTES):
        if len(line) == _MAX_LINE_BYTES:
            raise csv.Error("the line is too long")
        yield line


def _strings(batch: pa.RecordBatch, name: str) -> list[str | None]:
    strings: list[str | None] = batch.column(name).cast(pa.string()).to_pylist()
    return strings


def parquet_entries(table: Any, labelled: bool) -> Entries:
    """What a Parquet table names."""
    columns = ["uri", "label"] if labelled else ["uri"]
    row = 0
    for batch in table.iter_batches(BATCH_ROWS, columns=columns):
        labels = _strings(batch, "label") if labelled else [None] * batch.num_rows
        for uri, label in zip(_strings(batch, "uri"), labels, strict=True):
            if uri:
                yield uri, label
            else:
                yield ImageRejected(ErrorCode.UNREADABLE, f"Row {row} of the table has no URI.")
            row += 1


def parquet_images(uri: str, table: Any, columns: set[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a table that holds the images themselves."""
    wanted = [name for name in ("uri", "name", "label") if name in columns]
    total = table.metadata.num_rows
    row = 0
    named = Seen()  # two rows with one URI are two images: the later ones go by their number
    batches = table.iter_batches(BATCH_ROWS, columns=wanted) if wanted else iter(())
    while row < total:
        given: dict[str, list[str | None]] = {}
        count = min(BATCH_ROWS, total - row)
        if wanted:
            read = next(batches)
            count = read.num_rows
            given = {name: _strings(read, name) for name in wanted}
        if "uri" in given:
            first = named.add(pa.array(given["uri"], pa.string()))
            given["uri"] = [u if f else None for u, f in zip(given["uri"], first, strict=True)]
        nothing: list[str | None] = [None] * count
        rows = []
        for shown, name, label in zip(
            given.get("uri", nothing),
            given.get("name", nothing),
            given.get("label", nothing),
            strict=True,
        ):
            own_name = name or (shown.rpartition("://")[2].lstrip("/") if shown else str(row))
            rows.append(
                Row(
                    shown or f"parquet://{row}::{uri}",
                    own_name or str(row),
                    label if label is not None or not name else label_of(name),
                    uri,
                    row,
                    codec="row",
                )
            )
            row += 1
        yield to_batch(rows)
