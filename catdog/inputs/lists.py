"""Lists and tables of URIs as inputs: the rows of what their lines and rows name."""

from __future__ import annotations

import itertools
import logging
import posixpath
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected, UserInputError, printable
from catdog.inputs import archives, kept, plain_uris
from catdog.inputs.entries import (
    BATCH_ROWS,
    PLAN_SCHEMA,
    Columns,
    Row,
    SourceLimits,
    Work,
    as_given,
    error_row,
    file_row,
    is_text,
    to_batch,
)
from catdog.inputs.folders import Folder
from catdog.inputs.members import (
    Archive,
    SharedFolder,
    archive_members,
    may_be_image,
    member_parts,
    member_row,
)
from catdog.inputs.names import (
    ARCHIVES,
    WINDOWS_HINT,
    archive_codec,
    is_windows_path,
    label_of,
    located,
    relative,
)
from catdog.inputs.pages import row_of_page
from catdog.inputs.skipped import Skips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from catdog.inputs.tables import Entries, Entry

logger = logging.getLogger(__name__)

_CHAINED = re.compile(r"(zip|tar|parquet)://(.*)::(.*)", re.DOTALL)


@dataclass(frozen=True)
class Chunk:
    """Entries that follow each other, as columns.

    Attributes:
        texts: what they name, as strings; null where that is to be looked at in any case.
        labels: of each.
        kept: of each, what is kept of its row.
        entry: each by itself, by its place here.
    """

    texts: pa.Array[Any]
    labels: Sequence[str | None]
    kept: Sequence[Any]
    entry: Callable[[int], Entry]


def in_chunks(entries: Entries) -> Iterator[Chunk]:
    """Entries that come one by one."""
    while some := list(itertools.islice(entries, BATCH_ROWS)):
        try:
            texts = pa.array([entry.text for entry in some], pa.string())
        except UnicodeEncodeError:
            texts = pa.nulls(len(some), pa.string())
        labels, values = [entry.label for entry in some], [entry.kept for entry in some]
        yield Chunk(texts, labels, values, some.__getitem__)


@dataclass(frozen=True)
class EntryList:
    """A list, or a table of URIs, as an input.

    Attributes:
        uri: of the list.
        chunks: what it names.
        reader: turns an entry into rows.
        folder: URI that relative paths start from, with a final `/`; by default the list's own.
    """

    uri: str
    chunks: Iterator[Chunk]
    reader: EntryReader
    folder: str | None = None

    def works(self) -> Iterator[Work]:
        """Rows, and the folders and archives among them."""
        folder = self.folder or self.uri.rpartition("/")[0] + "/"
        for chunk in self.chunks:
            yield from self._works(chunk, folder)

    def _works(self, chunk: Chunk, folder: str) -> Iterator[Work]:
        plain = plain_uris.which(chunk.texts, folder)
        found = {at: self._read(chunk.entry(at), folder) for at in np.flatnonzero(~plain).tolist()}
        batch, keep = self._rows(chunk, found, plain, folder), self.reader.keep
        start = before = 0  # in the batch, and in the chunk
        for at, work in found.items():
            if isinstance(work, Row):
                continue
            if at > before:
                yield batch.slice(start, at - before)
            start, before = start + at - before, at + 1
            yield work if keep is None else kept.with_one(work, chunk.kept[at], keep)
        if start < batch.num_rows:
            yield batch.slice(start)

    def _read(self, entry: Entry, folder: str) -> Row | Work:
        if entry.error is not None:
            # Several lines may be wrong: each is a row of its own.
            uri = f"{self.uri}#{entry.place}"
            return error_row(uri, posixpath.basename(self.uri), entry.error)
        work = self.reader.read(entry.text, folder, entry.label)
        return as_given(work, entry.text) if isinstance(work, Row) else work

    def _rows(
        self,
        chunk: Chunk,
        found: Mapping[int, Row | Work],
        plain: NDArray[np.bool_],
        folder: str,
    ) -> pa.RecordBatch:
        """What is a row, in the order of the entries; `found` has what is not plain."""
        at = np.flatnonzero(plain)
        labels = [chunk.labels[place] for place in at.tolist()]
        batch = plain_uris.rows(chunk.texts.filter(pa.array(plain)), labels, folder)
        others = {place: row for place, row in found.items() if isinstance(row, Row)}
        if others:
            rows = to_batch(list(others.values()))
            at = np.concatenate([at, np.array(list(others))])
            together = pa.Table.from_batches([batch, rows]).take(pa.array(np.argsort(at)))
            batch = together.combine_chunks().to_batches()[0]
            at.sort()
        if self.reader.keep is None:
            return batch
        try:
            values = [chunk.kept[place] for place in at.tolist()]
            return kept.with_values(batch, values, self.reader.keep)
        except pa.ArrowException as error:
            raise UserInputError(f"{self.uri}: --keep: {error}") from error


class EntryReader:
    """Turns paths, URIs and chained URIs into rows; one for all lists of a listing."""

    def __init__(
        self,
        limits: SourceLimits,
        columns: Columns,
        skips: Skips,
        keep: pa.StructType | None = None,
    ) -> None:
        self.keep = keep
        self._limits, self._columns, self._skips = limits, columns, skips
        self._members = _ChainedMembers(limits)

    def read(self, text: str, folder: str, label: str | None) -> Row | Work:
        """The row of one entry, or the work that gives its rows.

        Args:
            text: a path, URI or chained URI.
            folder: the URI that relative paths start from, with a final `/`; "" for the current one.
            label: overrides the folder's name.
        """
        try:
            if not is_text(text) or "\0" in text:
                raise ImageRejected(ErrorCode.UNREADABLE, "Its name is not valid UTF-8.")
            scheme, member, file = _chained(text)
            uri = located(file, folder)
            if uri == "file:///":
                raise ValueError("It is the whole file system; name a folder in it")
            if uri.endswith("/") and not file.endswith("/"):
                raise ValueError(
                    "It is a whole bucket; name a file or, with a final /, a folder in it"
                )
            if is_windows_path(file, folder):
                raise ValueError(WINDOWS_HINT)
            page = storage.page_number(member, uri) if scheme else None
            if page is not None:
                name, named_label = relative(uri, folder)
                row = file_row(uri, name, named_label if label is None else label)
                return row_of_page(row, page)
            if scheme:
                return self._members.row(scheme, member, uri, label)
        except (ValueError, ImageRejected) as error:
            if isinstance(error, ValueError):
                error = ImageRejected(ErrorCode.UNSUPPORTED, f"{error}.")
            return error_row(
                text if "://" in text or text[:1] == "/" else folder + text, text, error
            )
        name, named_label = relative(uri, folder)
        if file.endswith("/"):
            if folder and not f"{uri}/".startswith(folder):
                outside = printable(folder), printable(uri)
                logger.warning("a list in %s names a folder outside of it: %s", *outside)
            return partial(self._folder, uri, label)
        if uri.lower().endswith(tuple(ARCHIVES)):
            prefix = posixpath.dirname(name)
            return Archive(uri, prefix, label, self._limits, self._columns, self._skips).rows
        return file_row(uri, name, named_label if label is None else label)

    def _folder(self, uri: str, label: str | None) -> Iterator[pa.RecordBatch]:
        try:
            for work in Folder(uri, self._limits, self._columns, self._skips).works():
                for each in [work] if isinstance(work, pa.RecordBatch) else work():
                    if label is None:
                        yield each
                    else:
                        labels = pa.array([label] * each.num_rows, pa.string())
                        yield each.set_column(2, PLAN_SCHEMA.field("label"), labels)
        except OSError as error:
            yield to_batch([error_row(uri, posixpath.basename(uri.rstrip("/")), error)])


def _chained(text: str) -> tuple[str, str, str]:
    """Scheme and member of a URI that leads into a file, empty where it does not; and the file."""
    chained = _CHAINED.fullmatch(text)
    if chained:
        return chained[1], chained[2], chained[3]
    member, file = storage.parse_odd(text) or ("", text)
    scheme = "zip" if file.lower().endswith(".zip") else "tar"
    return scheme if member else "", member, file


class _ChainedMembers:
    """Archives that entries in the chained form point into, the last two at hand."""

    def __init__(self, limits: SourceLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._archives: OrderedDict[str, _Index] = OrderedDict()

    def row(self, scheme: str, member: str, container: str, label: str | None) -> Row:
        """The row of one member of an archive, or of one row of a Parquet table.

        Raises:
            ValueError: it names a table's row otherwise than by its number.
        """
        uri = f"{scheme}://{member}::{container}"
        if scheme == "parquet":
            if not re.fullmatch(r"[0-9]{1,18}", member):
                raise ValueError("a row of a table is parquet://ROW::table")
            return Row(uri, member, label, container, int(member), codec="row")
        with self._lock:
            if container not in self._archives:
                while len(self._archives) >= 2:
                    self._archives.popitem(last=False)
                self._archives[container] = self._index(container)
            members, root, broken, stamp = self._archives[container]
        if member not in members:
            return error_row(storage.member_uri(scheme, member, container), member, broken)
        parts = member_parts(members[member])
        found = members[member]
        damaged = broken.code in (ErrorCode.TRUNCATED, ErrorCode.UNREADABLE)
        if damaged and archive_codec(container) != "zip":
            found = found._replace(by_name=False)
        row = member_row(container, "", label, found, parts)
        name = row.name.removeprefix(root)
        label = label_of(name) if label is None else label
        return row._replace(name=name, label=label, stamp=stamp)

    def _index(self, container: str) -> _Index:
        members: dict[str, archives.Member] = {}
        stamp: str | None = None
        shared = SharedFolder()
        broken = ImageRejected(ErrorCode.MISSING, "The archive has no such member.")
        try:
            for found, its_stamp in archive_members(container, self._limits):
                stamp = its_stamp
                members[found.name] = found
                parts = member_parts(found)
                if may_be_image(parts):
                    shared.add(parts[:-1])
        except (ImageRejected, OSError) as error:
            broken = storage.rejection(error)
        return _Index(members, shared.root, broken, stamp)


class _Index(NamedTuple):
    """What an archive holds."""

    members: dict[str, archives.Member]  # by name
    root: str
    broken: ImageRejected  # why another name is not among them
    stamp: str | None
