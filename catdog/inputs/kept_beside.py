"""Kept columns from files beside the images: WebDataset's samples, image folders' tables."""

from __future__ import annotations

import logging
import posixpath
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catdog.errors import ImageRejected, UserInputError, printable
from catdog.inputs.entries import BATCH_ROWS, Columns, is_text
from catdog.inputs.kept import KEPT, SAMPLE_COLUMNS
from catdog.inputs.told_labels import Named, folder_entries, sample_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from catdog.inputs.entries import SourceLimits

logger = logging.getLogger(__name__)

_MOST_BYTES = 1 << 30  # of one archive's


class SampleColumns:
    """The texts beside the images of one archive.

    Args:
        uri: of the archive.
        keep: the columns to keep; those of `SAMPLE_COLUMNS` among them are filled.
    """

    def __init__(self, uri: str, keep: pa.StructType) -> None:
        self._uri, self._keep, self._bytes = uri, keep, 0
        self._texts: dict[str, dict[str, str]] = {
            field.name: {}
            for field in keep
            if field.name in SAMPLE_COLUMNS and pa.types.is_string(field.type)
        }

    def are_in(self, path: str) -> bool:
        """Whether a member of this name holds one."""
        return _extension(path) in self._texts

    def read(self, path: str, content: bytes | ImageRejected) -> None:
        """Take the text in a member. Raises UserInputError where they are too large together."""
        try:
            text = "" if isinstance(content, ImageRejected) else content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = ""
        if not text:
            logger.warning(
                "%s: %s is not kept: it is not a text of at most one MiB",
                printable(self._uri),
                printable(path),
            )
            return
        self._bytes += len(text)
        if self._bytes > _MOST_BYTES:
            raise UserInputError(f"--keep: the texts in {self._uri} are larger than one GiB")
        self._texts[_extension(path)][sample_of(path)] = text

    def of(self, names: Iterable[str | None]) -> pa.Array[Any]:
        """What is kept of these images, by their names in the archive; None is no image."""
        values = [
            None
            if name is None
            else {column: texts.get(sample_of(name)) for column, texts in self._texts.items()}
            for name in names
        ]
        return pa.array(values, self._keep)


def _extension(path: str) -> str:
    return re.split(r"[/\\]", path)[-1].partition(".")[2].lower()


class FolderColumns:
    """The columns of an image folder's tables.

    Args:
        base: URI of the folder, with a final `/`.
        names: of its tables, relative to it.
        keep: the columns to keep.
        columns: which one has labels.
        limits: of reading.

    Raises:
        UserInputError: a value is not of its column's type.
    """

    def __init__(
        self,
        base: str,
        names: Sequence[str],
        keep: pa.StructType,
        columns: Columns,
        limits: SourceLimits,
    ) -> None:
        self._keep = keep
        self._places: Named[int] = Named()
        self._chunks: list[pa.Array[Any]] = []
        wanted = Columns("file_name", columns.label_column)
        place = 0
        for name in names:
            values: list[Any] = []
            for path, value in _rows(base + name, wanted, limits, keep):
                path_in_base = posixpath.join(posixpath.dirname(name), path)
                self._places.add(posixpath.normpath(path_in_base), place)
                values.append(value)
                place += 1
                if len(values) >= BATCH_ROWS:
                    self._add(base + name, values)
                    values = []
            self._add(base + name, values)

    def _add(self, uri: str, values: list[Any]) -> None:
        try:
            self._chunks.append(pa.array(values, self._keep))
        except pa.ArrowException as error:
            raise UserInputError(f"{uri}: --keep: {error}") from error

    def of(self, names: Iterable[str]) -> pa.Array[Any]:
        """What is kept of these images, by their names in the folder."""
        places = pa.array(self._places.of(names), pa.int64())
        together = pa.chunked_array(self._chunks, self._keep).combine_chunks()
        if isinstance(together, pa.ChunkedArray):
            together = together.chunk(0) if together.num_chunks else pa.array([], self._keep)
        self._chunks = [together]
        return together.take(places)


def _rows(
    uri: str, columns: Columns, limits: SourceLimits, keep: pa.StructType
) -> Iterator[tuple[str, Any]]:
    try:
        for entry in folder_entries(uri, columns, limits, keep):
            if entry.error is None and is_text(entry.text):
                yield entry.text, entry.kept
    except UserInputError:
        return  # it is about something else


def with_kept(batch: pa.RecordBatch, kept: pa.Array[Any]) -> pa.RecordBatch:
    """Entries with what is kept of each."""
    return batch.append_column(pa.field(KEPT, kept.type), kept)
