r"""Which images there are, and their bytes.

An input is an image, a folder or S3 prefix (read recursively), a glob, an archive (`.tar`,
`.tar.gz`, `.tgz`, `.zip`), a `.txt` list, or a `.csv` or `.parquet` table. The rules:

- **Explicit is an image.** A file named on the command line, in a list or in a table is planned,
  whatever its name; so is every file found in folders and archives, except:
- **Hidden and plainly other files are skipped** while walking folders, globs and archives: names
  that start with `.`, `__MACOSX`, and the extensions in `names.SKIPPED_EXTENSIONS`, counted in the log.
  Files without extension or with an unknown one are planned: a mislabelled image gets its row.
- **Archives found in folders are opened**, as if they had been unpacked where they lie.
  Archives in archives are not: one row `unsupported` each. Of two members with the same name, the
  last one counts, as when unpacking.
- **Labels** are the first folder of the name, the path below the input's root, as with Keras and
  torchvision. The root of an archive is the folder that all of its images share, where each of them
  lies in a folder further down: `photos.zip` with `photos/cat/1.jpg` and `photos/dog/2.jpg` has
  the classes `cat` and `dog`, and the names `cat/1.jpg` and `dog/2.jpg`, as unpacked; `cat.zip`
  with `cat/1.jpg` and `cat/more/2.jpg` is all `cat`.
- **Once each.** A URI that is reached twice is planned where it was reached first. Links to files
  are followed; a folder that links lead to a second time is not read again, so loops end.
- **Lists** hold one path or URI a line, relative to the list's own folder; empty lines and lines
  that start with `#` are no entries (write `./#1.jpg`). An entry may be an archive, a folder with
  a final `/`, or a member in the chained form `zip://member::archive`.
- **Tables** have a column `uri` (each an entry as in a list) and perhaps `label`, or columns that
  `Columns` names. A Parquet table with a column of bytes holds the images themselves; `uri` then
  only names them (rows without one, or with one that was there before, are named
  `parquet://ROW::table`).
- **Order** is that of the inputs, and within a folder that of the names' code points, as in S3.
- **Names that are not UTF-8** become rows `unreadable` that show them as `entries.shown` does.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from catdog import storage
from catdog.errors import UserInputError, reading
from catdog.inputs import braces, kept, tables, walking
from catdog.inputs.entries import (
    Columns,
    Row,
    SourceLimits,
    Work,
    file_row,
    is_text,
    rebatched,
    to_batch,
)
from catdog.inputs.folders import Folder, Glob, is_glob
from catdog.inputs.listers import Listers
from catdog.inputs.lists import EntryList, EntryReader, in_chunks
from catdog.inputs.members import Archive
from catdog.inputs.names import (
    ARCHIVES,
    LISTS,
    OTHER_ARCHIVES,
    OTHER_TABLES,
    TABLES,
    WINDOWS_HINT,
    is_windows_path,
)
from catdog.inputs.pages import each_page_of
from catdog.inputs.parquet_tables import ParquetTable
from catdog.inputs.skipped import Skips
from catdog.inputs.told_labels import folder_tables
from catdog.inputs.unique import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import TypeAlias

    _Found: TypeAlias = "tuple[int, pa.RecordBatch]"  # the number of the input, and rows of it

logger = logging.getLogger(__name__)


def list_images(
    inputs: Sequence[str],
    limits: SourceLimits,
    columns: Columns | None = None,
    skips: Skips | None = None,
    *,
    once: bool = True,
    keep: pa.StructType | None = None,
) -> Iterator[pa.RecordBatch]:
    """Every image of the inputs, once each, in a deterministic order.

    Memory is flat but for 16 bytes an image (to plan none twice) and the names of one folder.

    Args:
        inputs: paths, URIs, globs and brace expressions, as users write them.
        limits: what an input may cost.
        columns: of tables.
        skips: counts what is not planned; complete when all batches have come.
        once: whether each URI comes once. Else the caller sees to it, and memory is flat.
        keep: what goes along of each row of a table (`kept_type`), in a column `kept`.

    Yields:
        Batches of PLAN_SCHEMA, and `kept` where asked for, with 1 to 10,000 rows.

    Raises:
        UserInputError: an input does not exist, is forbidden, unknown, or holds no image at all.
        StorageDownError: a store is unreachable.
    """
    skips = skips if skips is not None else Skips()
    columns = columns or Columns()
    opener = _Opener(limits, columns, skips, keep)
    with ThreadPoolExecutor(walking.THREADS) as pool:
        texts = [text for given in pool.map(opener.expand, inputs) for text in given]
        starts = list(pool.map(opener.open, texts))
    seen = Seen()

    def new_rows(batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        for rows in each_page_of(batches) if columns.pages else batches:
            if keep is not None:
                rows = kept.with_nothing(rows, keep)  # noqa: PLW2901
            if not once:
                yield rows
                continue
            new = seen.add(rows.column("uri"))
            skips.add("named more than once", len(new) - int(np.count_nonzero(new)))
            yield rows if new.all() else rows.filter(pa.array(new))

    with (
        closing(Listers()) as listers,
        closing(walking.in_order(_works(texts, starts, listers))) as found,
        closing(new_rows(_not_empty(texts, found, skips))) as batches,
    ):
        yield from rebatched(batches)
    if str(skips):
        logger.info("not planned: %s", skips)


def _works(
    texts: Sequence[str], starts: Sequence[Callable[[], Iterator[Work]]], listers: Listers
) -> Iterator[_Found | Callable[[], Iterator[_Found]]]:
    """The work for all inputs, each result with the number of its input."""
    for at, (text, works) in enumerate(zip(texts, starts, strict=True)):
        with _naming(text):
            for work in listers.spread(works()):
                if isinstance(work, pa.RecordBatch):
                    yield at, work
                else:
                    yield partial(_done, at, text, work)


def _done(at: int, text: str, work: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[_Found]:
    with _naming(text):
        for rows in work():
            yield at, rows


@contextmanager
def _naming(text: str) -> Iterator[None]:
    """Make an error of a store or a file system name the input."""
    try:
        with reading(text):
            yield
    except OSError as error:
        raise UserInputError(f"{text}: {storage.error_detail(error)}") from error


def _not_empty(
    texts: Sequence[str], found: Iterator[_Found], skips: Skips
) -> Iterator[pa.RecordBatch]:
    """The rows of all inputs; refuses one that has none."""
    met = 0  # so many inputs have
    for at, rows in found:
        if at > met:
            break
        if rows.num_rows:
            met = at + 1
        yield rows
    if met < len(texts):
        text = texts[met]
        if str(skips):
            raise UserInputError(f"{text}: no images in it; skipped: {skips}")
        if is_glob(text) and not storage.exists(storage.to_uri(text)):
            raise UserInputError(f"{text}: matches nothing; ** stands for any number of folders")
        raise UserInputError(f"{text}: no images in it")


def kept_type(
    inputs: Sequence[str], names: Sequence[str], limits: SourceLimits, columns: Columns
) -> pa.StructType:
    """The type of the columns kept from tables among the inputs, and from files beside images.

    Errors as `kept.type_of_tables`.
    """
    opener = _Opener(limits, columns, Skips())
    found: list[str] = []
    beside: list[str] = []
    samples = False
    for text in (text for given in inputs for text in opener.expand(given)):
        found += opener.tables(text)
        beside += opener.tables_beside(text)
        samples = samples or text.lower().endswith(tuple(ARCHIVES))
    return kept.type_of_tables(found, names, columns, limits, beside=beside, samples=samples)


class _Opener:
    """Checks that inputs can be read, and tells their kinds. One for each `list_images`."""

    def __init__(
        self,
        limits: SourceLimits,
        columns: Columns,
        skips: Skips,
        keep: pa.StructType | None = None,
    ) -> None:
        self._limits, self._columns, self._skips = limits, columns, skips
        self._keep = keep
        self._entries = EntryReader(limits, columns, skips, keep)

    def tables(self, text: str) -> list[str]:
        """URIs of the tables that an input is, or that a glob finds; what is wrong, `open` says."""
        found: list[str] = []

        def note(uri: str) -> Iterator[Work]:
            found.append(uri)
            return iter(())

        try:
            uri = storage.to_uri(text)
            if not uri.lower().endswith(TABLES):
                return []
            with reading(text):
                there = walking.look(uri, as_folder=text.endswith("/"))[0]
                if there is None and is_glob(text):
                    for _ in Glob(uri, self._limits, self._columns, Skips(), note).works():
                        pass
                elif there is False:
                    found.append(uri)
        except (ValueError, OSError, storage.CredentialsError):
            self.open(text)
        return [uri for uri in found if uri.lower().endswith(TABLES)]

    def tables_beside(self, text: str) -> list[str]:
        """URIs of the tables beside the images of a folder; none of what is not a folder."""
        try:
            uri = storage.to_uri(text)
            if uri.lower().endswith((*TABLES, *ARCHIVES)) or storage.is_web(uri):
                return []
            if not walking.look(uri, as_folder=text.endswith("/"))[0]:
                return []
        except (ValueError, OSError, storage.CredentialsError):
            return []  # opening it says what is wrong
        base = uri if uri.endswith("/") else uri + "/"
        return [base + name for name in folder_tables(base)]

    def expand(self, text: str) -> list[str]:
        """The names that a brace expression expands to; the text itself if it has none, or exists.

        Raises:
            UserInputError: it stands for too many.
        """
        if "{" not in text or "::" in text or "\0" in text or not is_text(text):
            return [text]
        try:
            texts = braces.expanded(text)
        except ValueError as error:
            raise UserInputError(f"{text}: {error}") from None
        try:
            there = len(texts) > 1 and walking.look(storage.to_uri(text), as_folder=False)[0]
        except (ValueError, OSError, storage.CredentialsError):
            return [text]  # opening it says what is wrong
        return texts if there is None else [text]

    def open(self, text: str) -> Callable[[], Iterator[Work]]:
        """The work for an input.

        Raises:
            UserInputError: it cannot be read.
        """
        if not text:
            raise UserInputError("an input is empty; name an image, a folder, an archive or a list")
        try:
            with reading(text):
                return self._open(text)
        except ValueError as error:
            raise UserInputError(f"{text}: {error}") from None
        except FileNotFoundError:
            hint = f". {WINDOWS_HINT}" if is_windows_path(text, "") else ""
            raise UserInputError(f"{text}: there is no such file, folder or prefix{hint}") from None
        except PermissionError as error:
            detail = storage.error_detail(error)
            raise UserInputError(f"{text}: no permission to read it: {detail}") from None
        except storage.CredentialsError as error:
            raise UserInputError(f"{text}: {error}") from None
        except OSError as error:
            raise UserInputError(f"{text}: {storage.error_detail(error)}") from None

    def _open(self, text: str) -> Callable[[], Iterator[Work]]:
        if re.match(r"(zip|tar|parquet)://.*::|catdog://", text, re.DOTALL):
            entry = self._entries.read(text, "", None)
            return partial(_single, to_batch([entry]) if isinstance(entry, Row) else entry)
        if "\0" in text or not is_text(text):
            raise ValueError("the name is not valid UTF-8")
        uri = storage.to_uri(text)
        folder, size, stamp = walking.look(uri, as_folder=text.endswith("/"))
        if folder is None:
            if is_glob(text):
                return Glob(
                    uri,
                    self._limits,
                    self._columns,
                    self._skips,
                    lambda uri: self.open(uri)(),
                    self._keep,
                ).works
            raise FileNotFoundError
        if not folder and storage.is_local(uri) and not walking.is_file(uri):
            raise ValueError("it is a pipe, a socket or a device: save what it gives as a file")
        if folder:
            if storage.is_local(uri):
                os.scandir(storage.local_path(uri)).close()  # may it be read?
            return Folder(uri, self._limits, self._columns, self._skips, self._keep).works
        return self._file(uri, size, stamp)

    def _file(self, uri: str, size: int | None, stamp: str | None) -> Callable[[], Iterator[Work]]:
        """An existing file that is named explicitly."""
        lower = uri.lower()
        if lower.endswith(OTHER_ARCHIVES):
            raise ValueError("archives are .tar, .tar.gz, .tgz or .zip")
        if lower.endswith(OTHER_TABLES):
            raise ValueError("lists and tables as text may be compressed with gzip, others not")
        if lower.endswith((*ARCHIVES, *TABLES)):
            storage.read_range(uri, 0, 1)  # may it be read?
        if lower.endswith(tuple(ARCHIVES)):
            return Archive(
                uri, "", None, self._limits, self._columns, self._skips, self._keep
            ).works
        if lower.endswith(".parquet"):
            table = ParquetTable(uri, stamp, self._limits, self._columns, self._keep)
            return partial(table.works, self._entries)
        if lower.endswith(LISTS):
            entries = tables.list_entries(uri, self._limits)
            return EntryList(uri, in_chunks(entries), self._entries).works
        if lower.endswith(TABLES):
            entries = tables.table_entries(uri, self._columns, self._limits, self._keep)
            return EntryList(uri, in_chunks(entries), self._entries).works
        row = file_row(uri, posixpath.basename(uri), size=size, stamp=stamp)
        return partial(_single, to_batch([row]))


def _single(work: Work) -> Iterator[Work]:
    yield work
