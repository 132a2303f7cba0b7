"""TIFFs with several pages, each of which becomes an image."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import archives, kept
from catdog.inputs.entries import PLAN_SCHEMA, Row, error_row, to_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

_THREADS = 16


def each_page_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of all batches, as `_each_page` has them."""
    for rows in batches:
        yield from _each_page(rows)


def _each_page(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows, with one row per page in place of that of a TIFF with several pages.

    Pages share the file's name, so training keeps them on one side of the split.

    Args:
        rows: PLAN_SCHEMA, and `KEPT` if there is any.
    """
    given = [Row(*values.values()) for values in rows.select(PLAN_SCHEMA.names).to_pylist()]
    wanted = [at for at, row in enumerate(given) if _may_have_pages(row)]
    if not wanted:
        yield rows
        return
    done = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="catdog-pages") as pool:
        for at, pages in zip(wanted, pool.map(_pages, [given[at] for at in wanted]), strict=True):
            if at > done:
                yield rows.slice(done, at - done)
            found = to_batch(pages)
            if kept.KEPT in rows.schema.names:
                value = rows.column(kept.KEPT)[at]
                found = kept.with_values(found, [value] * len(pages), value.type)
            yield found
            done = at + 1
    if done < len(given):
        yield rows.slice(done)


def row_of_page(row: Row, number: int) -> Row:
    """The row of one page.

    Args:
        row: of the file.
        number: of the page, from 0.
    """
    uri = row.container or row.uri
    try:
        with contextlib.closing(archives.FileBytes(uri)) as file:
            found = storage.tiff_pages(file.read_at)
            if number >= len(found.offsets):
                raise ImageRejected(ErrorCode.MISSING, "The TIFF has no such page.")
            return _page(row._replace(stamp=file.stamp, size=file.size), found.offsets, number)
    except (ImageRejected, OSError) as error:
        return error_row(storage.page_uri(uri, number), row.name, error)


def _may_have_pages(row: Row) -> bool:
    uri = row.container or row.uri
    return row.codec == "file" and row.error is None and uri.lower().endswith(storage.TIFF_ENDS)


def _pages(row: Row) -> list[Row]:
    uri = row.container or row.uri
    try:
        with contextlib.closing(archives.FileBytes(uri)) as file:
            found = storage.tiff_pages(file.read_at)
            row = row._replace(stamp=file.stamp, size=file.size)
    except (ImageRejected, OSError):
        return [row]  # reading it tells
    if not found.offsets or (len(found.offsets) == 1 and found.whole):
        return [row]
    pages = [_page(row, found.offsets, number) for number in range(len(found.offsets))]
    if not found.whole:
        detail = f"The TIFF is damaged behind page {len(pages)}: what comes after it is lost."
        pages.append(error_row(row.uri, row.name, ImageRejected(ErrorCode.TRUNCATED, detail)))
    return pages


def _page(row: Row, offsets: list[int], number: int) -> Row:
    uri = row.container or row.uri
    return row._replace(
        uri=storage.page_uri(uri, number), container=uri, offset=offsets[number], codec="page"
    )
