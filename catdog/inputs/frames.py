"""Tables that a program has in memory: written beside the results, where every worker can read them."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

from catdog import scratch, storage
from catdog.errors import UserInputError, printable
from catdog.inputs import image_columns, parquet_rows, parquet_tables, table_columns
from catdog.inputs.plain_types import without_views

if TYPE_CHECKING:
    from catdog.inputs.entries import Columns

logger = logging.getLogger(__name__)

FRAMES_FOLDER = "_given"
_NAME = "images"  # of the table, in messages


class Frame(Protocol):
    """A pyarrow Table, a pandas or Polars DataFrame, or any other with Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Its columns."""


def is_frame(images: Any) -> TypeGuard[Frame]:
    """Whether it is a table with columns, and no path nor several of them."""
    named = hasattr(images, "columns") or hasattr(images, "schema")
    return named and (_is_pandas(images) or hasattr(images, "__arrow_c_stream__"))


def store_frame(frame: Frame, columns: Columns, output: str) -> tuple[str, bool]:
    """Write a table into a job's output under a name that follows from its content.

    Args:
        frame: of paths, URIs or images, as a table in a file; relative paths start from the current
            folder.
        columns: which ones count.
        output: URI of the job's folder.

    Returns:
        URI of the Parquet file, and whether it was written now.

    Raises:
        UserInputError: its columns are not those of a table of images, or Parquet cannot hold them.
        OSError: as `storage.open_atomic`.
    """
    import pyarrow.parquet as pq

    with scratch.naming_full(), tempfile.TemporaryFile(prefix="catdog-table-") as file:
        try:
            table = _located(_as_table(frame), columns)
            pq.write_table(table.combine_chunks(), file, row_group_size=1 << 14)
        except (pa.ArrowException, TypeError, ValueError) as error:
            what = " ".join(str(error).split())
            raise UserInputError(f"{_NAME}: Parquet cannot hold it: {what}") from error
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        uri = storage.join(output, FRAMES_FOLDER, f"{digest}.parquet")
        if storage.exists(uri):
            return uri, False
        file.seek(0)
        with storage.open_atomic(uri) as written:
            shutil.copyfileobj(file, written, 1 << 20)
    return uri, True


def _is_pandas(images: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(images, pandas.DataFrame)


def _as_table(frame: Frame) -> pa.Table:
    if _is_pandas(frame):
        return _of_pandas(frame)
    table = frame if isinstance(frame, pa.Table) else pa.table(frame)
    return table.cast(without_views(table.schema))


def _of_pandas(frame: Any) -> pa.Table:
    """Its columns, paths as text; one that Arrow has no type for is left out."""
    if not frame.columns.is_unique:
        raise ValueError(f"two of its columns have the same name: {list(frame.columns)}")
    columns: dict[str, Any] = {}
    for name in frame.columns:
        values = frame[name]
        if values.dtype == object:
            values = values.map(lambda each: os.fspath(each) if _is_path(each) else each)
        try:
            columns[str(name)] = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError) as error:
            logger.warning("the table's column %s is left out: %s", printable(str(name)), error)
    return pa.table(columns)


def _is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike)


def _located(table: pa.Table, columns: Columns) -> pa.Table:
    """The table with the folder that its paths start from, since its file lies elsewhere."""
    images = image_columns.image_column(table.schema, columns, _NAME)
    if images is None:
        at = table_columns.choose_uri(table.schema.names, columns, _NAME)
        texts = table.column(at)
    else:
        at = table.schema.get_field_index(images)
        column = table.column(at)
        if not image_columns.has_path(column.type):
            return table
        if pc.struct_field(column, "bytes").null_count < len(column):
            return table
        texts = pc.struct_field(column, "path")
        if columns.uri_column is None and images != "uri":
            others = [name for name in table.schema.names if name != "uri"]
            table = table.select(others).rename_columns({images: "uri"})
            at = table.schema.get_field_index("uri")
    given = [text for chunk in texts.chunks for text in parquet_rows.texts(chunk)]
    sound = [text if isinstance(text, str) else None for text in given]
    table = table.set_column(at, table.schema.names[at], pa.array(sound, pa.string()))
    folder = storage.to_uri(os.curdir).rstrip("/") + "/"
    return table.replace_schema_metadata(
        {**(table.schema.metadata or {}), parquet_tables.FOLDER_KEY: folder}
    )
