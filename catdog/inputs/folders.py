"""Folders, S3 prefixes and globs as inputs: the rows that a walk finds."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import walking
from catdog.inputs.entries import (
    BATCH_ROWS,
    Columns,
    Row,
    SourceLimits,
    Work,
    error_row,
    file_row,
    is_text,
    to_batch,
)
from catdog.inputs.kept_beside import FolderColumns, with_kept
from catdog.inputs.members import Archive
from catdog.inputs.names import ALL_ARCHIVES, TABLES, label_of, skipped_as
from catdog.inputs.skipped import Skips
from catdog.inputs.told_labels import folder_labels, folder_tables, relabelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_WILD = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Folder:
    """A folder or S3 prefix as an input, read recursively.

    Attributes:
        uri: of the folder.
        limits: what it may cost.
        columns: where labels are.
        skips: counts what is not planned.
        keep: columns of the results; its tables, and texts in its archives, have some.
    """

    uri: str
    limits: SourceLimits
    columns: Columns
    skips: Skips
    keep: pa.StructType | None = None

    def works(self) -> Iterator[Work]:
        """Rows, and the archives among them."""
        base = self.uri if self.uri.endswith("/") else self.uri + "/"
        told = folder_labels(base, self.columns, self.limits)
        beside: FolderColumns | None = None
        if self.keep is not None and (names := folder_tables(base)):
            beside = FolderColumns(base, names, self.keep, self.columns, self.limits)
        walk = walking.walk(base)
        for work in _walked(base, walk, self.limits, self.columns, self.skips, self.keep):
            if not isinstance(work, pa.RecordBatch) or (told is None and beside is None):
                yield work
                continue
            images = work.column("name").to_pylist()
            rows = work if told is None else relabelled(work, told.of(images), keep=True)
            yield rows if beside is None else with_kept(rows, beside.of(images))


def is_glob(text: str) -> bool:
    """Whether a name has a glob's special characters."""
    return _WILD.search(text) is not None


class Glob:
    """A glob as an input.

    Raises:
        FileNotFoundError: the folder before the first wildcard does not exist.
        ValueError: the bucket's name holds a wildcard.
    """

    def __init__(
        self,
        uri: str,
        limits: SourceLimits,
        columns: Columns,
        skips: Skips,
        open_table: Callable[[str], Iterator[Work]],
        keep: pa.StructType | None = None,
    ) -> None:
        self._limits, self._columns, self._skips = limits, columns, skips
        self._open_table, self._keep = open_table, keep
        scheme, _, path = uri.partition("://")
        wild = _WILD.search(path)
        start = path.rfind("/", 0, wild.start() if wild else 0) + 1
        self._base, self._pattern = f"{scheme}://{path[:start]}", path[start:]
        if scheme == "s3" and start == 0:
            raise ValueError("a bucket's name cannot hold a wildcard")
        if storage.is_local(self._base):
            folder, *_ = walking.look(self._base, as_folder=True)
            if not folder:
                raise FileNotFoundError

    def works(self) -> Iterator[Work]:
        """The rows and archives of the matching files and folders."""
        wanted = re.compile(walking.glob_regex(self._pattern))
        literal = _WILD.split(self._pattern)[0]
        parts = self._pattern.split("/")
        enter = None if "**" in self._pattern else partial(walking.may_hold, parts)
        pages = (
            [found for found in page if wanted.fullmatch(found.name)]
            for page in walking.walk(self._base, literal, enter)
        )
        # `tables/*.parquet` names tables as explicitly as `tables/a.parquet` does.
        if self._pattern.lower().endswith(TABLES):
            return self._tables(pages)
        return _walked(self._base, pages, self._limits, self._columns, self._skips, self._keep)

    def _tables(self, pages: Iterable[list[walking.Found]]) -> Iterator[Work]:
        for page in pages:
            for found in page:
                if found.passed_over is not None:
                    self._skips.add(found.passed_over)
                elif found.error is None:
                    yield from self._open_table(self._base + found.name)
                else:
                    row = error_row(self._base + found.name, found.name, found.error)
                    yield to_batch([row])


def _walked(
    base: str,
    pages: Iterable[list[walking.Found]],
    limits: SourceLimits,
    columns: Columns,
    skips: Skips,
    keep: pa.StructType | None,
) -> Iterator[Work]:
    """Rows and archives of a walk below `base`, which ends with `/`."""
    rows: list[Row] = []
    for page in pages:
        for found in page:
            name = found.name
            uri = base + name
            error = found.error
            if error is None and not (name.isascii() or is_text(name)):
                error = ImageRejected(ErrorCode.UNREADABLE, "Its name is not valid UTF-8.")
            if error is not None:
                rows.append(error_row(uri, name, error))
            elif found.passed_over is not None:
                skips.add(found.passed_over)
            elif name.lower().endswith(ALL_ARCHIVES):
                if rows:
                    yield to_batch(rows)
                    rows = []
                folder = posixpath.dirname(name)
                yield Archive(uri, folder, None, limits, columns, skips, keep).rows
            elif (kind := skipped_as(name)) is not None:
                skips.add(kind)
            else:
                rows.append(file_row(uri, name, label_of(name), found.size, found.stamp))
        if len(rows) >= BATCH_ROWS:
            yield to_batch(rows)
            rows = []
    if rows:
        yield to_batch(rows)
