r"""Which images there are, and their bytes.

An input is an image, a folder or S3 prefix (read recursively), a glob, an archive (`.tar`,
`.tar.gz`, `.tgz`, `.zip`), a `.txt` list, or a `.csv` or `.parquet` table. The rules:

- **Explicit is an image.** A file named on the command line, in a list or in a table is planned,
  whatever its name; so is every file found in folders and archives, except:
- **Hidden and plainly other files are skipped** while walking folders, globs and archives: names
  that start with `.`, `__MACOSX`, and the extensions in `SKIPPED_EXTENSIONS`, counted in the log.
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
- **Tables** have a column `uri` (each an entry as in a list) and perhaps `label`. A Parquet table
  with a column `bytes` holds the images themselves; `uri` then only names them (rows without
  one, or with one that was there before, are named `parquet://ROW::table`).
- **Order** is that of the inputs, and within a folder that of the names' code points, as in S3.
- **Names that are not UTF-8** become rows `unreadable` that show the bytes as `\xNN`.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import posixpath
import re
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected, UserInputError, reading
from catdog.inputs import archives, walking
from catdog.inputs.entries import PLAN_SCHEMA, SourceLimits

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TEXT = "txt md rst json jsonl ndjson csv tsv xml yaml yml toml ini cfg log lst cls url"
_DATA = "parquet arrow feather npy npz pkl pickle h5 hdf5 mat db sqlite tfrecord idx bib"
_CODE = "py pyc ipynb sh js css html htm c h cpp java go rs sql"
_MODELS = "pt pth ckpt keras onnx safetensors tflite"
_DOCUMENTS = "pdf doc docx xls xlsx ppt pptx odt ods rtf"
_SOUND_AND_VIDEO = "mp3 wav flac ogg m4a mp4 mov avi mkv webm m4v mpg mpeg"
_CHECKSUMS = "md5 sha1 sha256 sha512 asc sig crc"
SKIPPED_EXTENSIONS = frozenset(
    f"{_TEXT} {_DATA} {_CODE} {_MODELS} {_DOCUMENTS} {_SOUND_AND_VIDEO} {_CHECKSUMS}".split()
)
"""Extensions of files that are skipped while walking: plainly not images."""

_SKIPPED_FILES = frozenset({"_SUCCESS", "Thumbs.db", "desktop.ini"})
_ARCHIVES = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".zip": "zip"}
_OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_ALL_ARCHIVES = (*_ARCHIVES, *_OTHER_ARCHIVES)

_BATCH_ROWS = 10_000
_MAX_LINE_BYTES = 64 << 10


class _Row(NamedTuple):
    """One plan entry; the fields of PLAN_SCHEMA."""

    uri: str
    name: str
    label: str | None = None
    container: str | None = None
    offset: int | None = None
    length: int | None = None
    size: int | None = None
    codec: str | None = "file"
    error: str | None = None
    error_detail: str | None = None


# Path or URI, and label; or what is wrong there.
_Entries = Iterator[tuple[str, str | None] | Exception]

# What an input turns into: rows, or work that gives rows and can be done ahead of its turn.
_Work: TypeAlias = "pa.RecordBatch | Callable[[], Iterator[pa.RecordBatch]]"


def list_images(inputs: Sequence[str], limits: SourceLimits) -> Iterator[pa.RecordBatch]:
    """Every image of the inputs, once each, in a deterministic order.

    Memory is flat but for 8 bytes an image (to plan none twice) and the names of one folder.

    Args:
        inputs: paths, URIs and globs, as users write them.
        limits: what an input may cost.

    Yields:
        Batches of PLAN_SCHEMA with 1 to 10,000 rows.

    Raises:
        UserInputError: an input does not exist, is forbidden, unknown, or holds no image at all.
        StorageDownError: a store is unreachable.
    """
    lister = _Lister(limits)
    with ThreadPoolExecutor(walking.THREADS) as pool:
        starts = list(pool.map(lister.start, inputs))
    seen = _Seen()
    duplicates = 0

    def new_rows() -> Generator[pa.RecordBatch, None, None]:
        nonlocal duplicates
        for text, work in zip(inputs, starts, strict=True):
            empty = True
            try:
                with reading(text), closing(walking.in_order(work())) as batches:
                    for batch in batches:
                        empty = empty and not batch.num_rows
                        new = seen.add(batch.column("uri"))
                        duplicates += len(new) - int(np.count_nonzero(new))
                        yield batch if new.all() else batch.filter(pa.array(new))
            except OSError as error:
                raise UserInputError(f"{text}: {storage.error_detail(error)}") from error
            if empty:
                raise UserInputError(f"{text}: no images in it{lister.hint()}")

    with closing(new_rows()) as rows:
        yield from _rebatched(rows)
    lister.log(duplicates)


class _Lister:
    """Turns inputs into rows. One for each `list_images`."""

    def __init__(self, limits: SourceLimits) -> None:
        self._limits = limits
        self._skipped: Counter[str] = Counter()
        self._skipped_lock = threading.Lock()
        # Archives that entries in the chained form point into: members by name, the root, and the
        # reason why another name is not among them.
        self._members: OrderedDict[str, tuple[dict[str, archives.Member], str, ImageRejected]]
        self._members = OrderedDict()
        self._members_lock = threading.Lock()

    def log(self, duplicates: int) -> None:
        """Tell what was not planned."""
        if self._skipped:
            logger.info("skipped files that are no images: %s", self._kinds_skipped())
        if duplicates:
            logger.info("planned once what the inputs name several times: %d", duplicates)

    def hint(self) -> str:
        """The end of a sentence about an input without images."""
        return f"; skipped: {self._kinds_skipped()}" if self._skipped else ""

    def _kinds_skipped(self) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in self._skipped.most_common(5))

    def _skip(self, name: str) -> bool:
        """Whether a file met while walking is no image; counts it."""
        if not _is_plainly_other(name):
            return False
        _, dot, extension = name.rpartition("/")[2].rpartition(".")
        with self._skipped_lock:
            self._skipped[dot + extension.lower()] += 1
        return True

    def start(self, text: str) -> Callable[[], Iterator[_Work]]:
        """Check that an input can be read, and say what is to be done with it."""
        if not text:
            raise UserInputError("an input is empty; name an image, a folder, an archive or a list")
        try:
            with reading(text):
                return self._start(text)
        except ValueError as error:
            raise UserInputError(f"{text}: {error}") from None
        except FileNotFoundError:
            raise UserInputError(f"{text}: there is no such file, folder or prefix") from None
        except PermissionError as error:
            detail = storage.error_detail(error)
            raise UserInputError(f"{text}: it may not be read: {detail}") from None
        except storage.CredentialsError as error:
            raise UserInputError(f"{text}: {error}") from None
        except OSError as error:
            raise UserInputError(f"{text}: {storage.error_detail(error)}") from None

    def _start(self, text: str) -> Callable[[], Iterator[_Work]]:
        if "::" in text and re.match(r"(zip|tar|parquet)://", text):
            entry = self._entry(text, "", None)
            return partial(self._single, _batch([entry]) if isinstance(entry, _Row) else entry)
        if "\0" in text or not _is_text(text):
            raise ValueError("the name is not valid UTF-8")
        uri = storage.to_uri(text)
        folder, size = walking.look(uri, as_folder=text.endswith("/"))
        if folder is None:
            if re.search(r"[*?[]", text):
                return self._glob(uri)
            raise FileNotFoundError
        if folder:
            if storage.is_local(uri):
                os.scandir(storage.local_path(uri)).close()  # may it be read?
            return partial(self._folder, uri)
        return self._file(uri, size)

    def _file(self, uri: str, size: int | None) -> Callable[[], Iterator[_Work]]:
        """An existing file that is named explicitly."""
        lower = uri.lower()
        name = posixpath.basename(uri)
        if lower.endswith(_OTHER_ARCHIVES):
            raise ValueError("archives are .tar, .tar.gz, .tgz or .zip")
        if lower.endswith((*_ARCHIVES, ".txt", ".csv", ".parquet")):
            storage.read_range(uri, 0, 1)  # may it be read?
        if lower.endswith(tuple(_ARCHIVES)):
            return partial(self._single, partial(self._archive, uri, ""))
        if lower.endswith(".txt"):
            return partial(self._entries, uri, _lines(uri))
        if lower.endswith(".csv"):
            return partial(self._entries, uri, _csv_rows(uri))
        if lower.endswith(".parquet"):
            return partial(self._parquet, uri)
        return partial(self._single, _batch([_Row(uri, name, size=size)]))

    def _single(self, work: _Work) -> Iterator[_Work]:
        yield work

    def _folder(self, uri: str) -> Iterator[_Work]:
        base = uri if uri.endswith("/") else uri + "/"
        return self._walked(base, walking.walk(base))

    def _walked(
        self, base: str, pages: Iterable[list[walking.Found]], wanted: re.Pattern[str] | None = None
    ) -> Iterator[_Work]:
        """Rows and archives of a walk below `base`, which ends with `/`."""
        rows: list[_Row] = []
        for page in pages:
            for found in page:
                name = found.name
                if wanted is not None and not wanted.fullmatch(name):
                    continue
                uri = base + name
                error = found.error
                if error is None and not (name.isascii() or _is_text(name)):
                    error = ImageRejected(ErrorCode.UNREADABLE, "Its name is not valid UTF-8.")
                if error is not None:
                    rows.append(_error_row(_shown(uri), _shown(name), error))
                    continue
                if name.lower().endswith(_ALL_ARCHIVES):
                    if rows:
                        yield _batch(rows)
                        rows = []
                    yield partial(self._archive, uri, posixpath.dirname(name))
                elif not self._skip(name):
                    rows.append(_Row(uri, name, _label(name), size=found.size))
            if len(rows) >= _BATCH_ROWS:
                yield _batch(rows)
                rows = []
        if rows:
            yield _batch(rows)

    def _glob(self, uri: str) -> Callable[[], Iterator[_Work]]:
        scheme, _, path = uri.partition("://")
        wild = re.search(r"[*?[]", path)
        start = path.rfind("/", 0, wild.start() if wild else 0) + 1
        base, pattern = f"{scheme}://{path[:start]}", path[start:]
        if scheme == "s3" and start == 0:
            raise ValueError("a bucket's name cannot hold a wildcard")
        wanted = re.compile(walking.glob_regex(pattern))
        literal = re.split(r"[*?[]", pattern)[0]
        if storage.is_local(base):
            folder, _ = walking.look(base, as_folder=True)
            if not folder:
                raise FileNotFoundError
        # `tables/*.parquet` names tables as explicitly as `tables/a.parquet` does.
        if pattern.lower().endswith((".txt", ".csv", ".parquet")):
            return partial(self._globbed_tables, base, wanted, literal, pattern)
        enter = None if "**" in pattern else partial(walking.may_hold, pattern.split("/"))
        return lambda: self._walked(base, walking.walk(base, literal, enter), wanted)

    def _globbed_tables(
        self, base: str, wanted: re.Pattern[str], literal: str, pattern: str
    ) -> Iterator[_Work]:
        enter = None if "**" in pattern else partial(walking.may_hold, pattern.split("/"))
        for page in walking.walk(base, literal, enter):
            for found in page:
                if wanted.fullmatch(found.name):
                    if found.error is None:
                        yield from self.start(base + found.name)()
                    else:
                        uri, name = _shown(base + found.name), _shown(found.name)
                        yield _batch([_error_row(uri, name, found.error)])

    def _entries(self, uri: str, entries: _Entries) -> Iterator[_Work]:
        """Entries of a list or table: (path or URI, label) each."""
        folder = uri.rpartition("/")[0] + "/"
        rows: list[_Row] = []
        for entry in entries:
            if isinstance(entry, Exception):
                work: _Work | _Row = _error_row(uri, posixpath.basename(uri), entry)
            else:
                work = self._entry(entry[0], folder, entry[1])
            if isinstance(work, _Row):
                rows.append(work)
            if len(rows) >= _BATCH_ROWS or (rows and not isinstance(work, _Row)):
                yield _batch(rows)
                rows = []
            if not isinstance(work, _Row):
                yield work
        if rows:
            yield _batch(rows)

    def _entry(self, text: str, folder: str, label: str | None) -> _Row | _Work:
        """The row of one entry, or the work that gives its rows.

        Args:
            text: a path, URI or chained URI.
            folder: the URI that relative paths start from, with a final `/`; "" for the current one.
            label: overrides the folder's name.
        """
        try:
            if not _is_text(text) or "\0" in text:
                raise ImageRejected(ErrorCode.UNREADABLE, "Its name is not valid UTF-8.")
            chained = re.fullmatch(r"(zip|tar|parquet)://(.*)::(.*)", text, re.DOTALL)
            if chained:
                return self._chained(chained[1], chained[2], _located(chained[3], folder), label)
            uri = _located(text, folder)
        except (ValueError, ImageRejected) as error:
            if isinstance(error, ValueError):
                error = ImageRejected(ErrorCode.UNSUPPORTED, f"{error}.")
            return _error_row(_shown(text), _shown(text), error)
        name, named_label = _relative(uri, folder)
        if text.endswith("/"):
            return partial(self._folder_entry, uri, label)
        if uri.lower().endswith(tuple(_ARCHIVES)):
            return partial(self._archive, uri, posixpath.dirname(name), label)
        return _Row(uri, name, named_label if label is None else label)

    def _folder_entry(self, uri: str, label: str | None) -> Iterator[pa.RecordBatch]:
        try:
            for work in self._folder(uri):
                for batch in [work] if isinstance(work, pa.RecordBatch) else work():
                    if label is None:
                        yield batch
                    else:
                        labels = pa.array([label] * batch.num_rows, pa.string())
                        yield batch.set_column(2, PLAN_SCHEMA.field("label"), labels)
        except OSError as error:
            yield _batch([_error_row(uri, posixpath.basename(uri.rstrip("/")), error)])

    def _chained(self, scheme: str, member: str, container: str, label: str | None) -> _Row:
        """The row of one member of an archive, or of one row of a Parquet table."""
        uri = f"{scheme}://{member}::{container}"
        if scheme == "parquet":
            if not re.fullmatch(r"[0-9]{1,18}", member):
                raise ValueError("a row of a table is parquet://ROW::table")
            return _Row(uri, member, label, container, int(member), codec="row")
        with self._members_lock:
            if container not in self._members:
                while len(self._members) >= 2:
                    self._members.popitem(last=False)
                members: dict[str, archives.Member] = {}
                shared = _SharedFolder()
                broken = ImageRejected(ErrorCode.MISSING, "The archive has no such member.")
                try:
                    for found in _archive_members(container, self._limits):
                        members[found.name] = found
                        parts = _member_parts(container, found)
                        if _may_be_image(parts):
                            shared.add(parts[:-1])
                except (ImageRejected, OSError) as error:
                    broken = storage.rejection(error)
                self._members[container] = (members, shared.root, broken)
            members, root, broken = self._members[container]
        if member not in members:
            return _error_row(uri, member, broken)
        parts = _member_parts(container, members[member])
        row = _member_row(container, "", label, members[member], parts)
        name = row.name.removeprefix(root)
        return row._replace(name=name, label=_label(name) if label is None else label)

    def _parquet(self, uri: str) -> Iterator[_Work]:
        import pyarrow.parquet as pq

        try:
            with storage.open_input(uri) as file, pq.ParquetFile(file) as table:
                kinds = {field.name: field.type for field in table.schema_arrow}
                if "bytes" in kinds:
                    if not (
                        pa.types.is_binary(kinds["bytes"])
                        or pa.types.is_large_binary(kinds["bytes"])
                    ):
                        raise UserInputError(
                            f"{uri}: the column bytes is {kinds['bytes']}, not binary"
                        )
                    yield from _parquet_images(uri, table, set(kinds))
                elif "uri" in kinds:
                    yield from self._entries(uri, _parquet_entries(table, "label" in kinds))
                else:
                    columns = ", ".join(sorted(kinds))
                    raise UserInputError(
                        f"{uri}: a table needs a column uri or bytes; this one has {columns}"
                    )
        except pa.ArrowException as error:
            raise UserInputError(f"{uri}: it is no Parquet table, or damaged") from error

    # ---------------------------------------------------------------- archives

    def _archive(self, uri: str, prefix: str, label: str | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of an archive's members, and one for itself where it is broken.

        Args:
            uri: of the archive.
            prefix: the folder that the members' names are put under, "" for none.
            label: of all its members, instead of their folders' names.
        """
        with _Spill() as spill:
            rows: list[_Row] = []
            shared = _SharedFolder()
            try:
                for member in _archive_members(uri, self._limits):
                    parts = _member_parts(uri, member)
                    if not parts or walking.is_hidden("/".join(parts)) or self._skip(parts[-1]):
                        continue
                    shared.add(parts[:-1])
                    rows.append(_member_row(uri, prefix, label, member, parts))
                    if len(rows) >= _BATCH_ROWS:
                        spill.add(_batch(rows))
                        rows = []
            except (ImageRejected, OSError) as error:
                name = posixpath.join(prefix, posixpath.basename(uri))
                rows.append(_error_row(uri, name, error))
            if rows:
                spill.add(_batch(rows))
            for batch in spill.batches():
                yield _from_root(batch, prefix, shared.root, label) if shared.root else batch


class _SharedFolder:
    """The folders that all images of an archive lie in."""

    def __init__(self) -> None:
        self._shared: list[str] | None = None
        self._fewest = 0

    def add(self, folders: list[str]) -> None:
        """One more image, which lies in these folders."""
        if self._shared is None:
            self._shared, self._fewest = folders, len(folders)
            return
        self._fewest = min(self._fewest, len(folders))
        if folders[: len(self._shared)] != self._shared:
            pairs = zip(self._shared, folders, strict=False)
            same = next((at for at, (one, two) in enumerate(pairs) if one != two), self._fewest)
            self._shared = self._shared[:same]

    @property
    def root(self) -> str:
        """What all names start with and should not, with a final `/`; "" for nothing.

        Where an image lies right in the innermost shared folder, that is a class and no wrapper.
        """
        shared = self._shared or []
        wraps = len(shared) < self._fewest and ".." not in shared
        return "/".join([*shared, ""]) if wraps else ""


def _from_root(batch: pa.RecordBatch, prefix: str, root: str, label: str | None) -> pa.RecordBatch:
    """The rows of an archive, the images' names and labels without its root.

    Args:
        batch: PLAN_SCHEMA.
        prefix: what the names start with before the root, without a final `/`.
        root: with a final `/`.
        label: of all rows, or None.
    """
    start = posixpath.join(prefix, root)
    names, labels = batch.column("name").to_pylist(), batch.column("label").to_pylist()
    for at, name in enumerate(names):
        if name.startswith(start):  # else it is the archive itself
            names[at] = posixpath.join(prefix, name[len(start) :])
            labels[at] = _label(names[at]) if label is None else label
    columns = dict(zip(PLAN_SCHEMA.names, batch.columns, strict=True))
    columns |= {"name": pa.array(names, pa.string()), "label": pa.array(labels, pa.string())}
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=PLAN_SCHEMA)


def _is_plainly_other(name: str) -> bool:
    """Whether a file's name tells that it is no image."""
    base = name.rpartition("/")[2]
    _, dot, extension = base.rpartition(".")
    return base in _SKIPPED_FILES or (bool(dot) and extension.lower() in SKIPPED_EXTENSIONS)


def _may_be_image(parts: list[str]) -> bool:
    """Whether a member, by the parts of its name, is planned when its archive is."""
    return (
        bool(parts) and not walking.is_hidden("/".join(parts)) and not _is_plainly_other(parts[-1])
    )


def _member_parts(uri: str, member: archives.Member) -> list[str]:
    name = member.true_name or member.name
    if uri.lower().endswith(".zip"):
        name = name.replace("\\", "/")  # some archives made on Windows
        if name.endswith("/"):
            return []
    return [part for part in name.split("/") if part not in {"", "."}]


def _member_row(
    uri: str, prefix: str, label: str | None, member: archives.Member, parts: list[str]
) -> _Row:
    name = "/".join([prefix, *parts] if prefix else parts)
    error, detail = member.error, member.detail
    if error is None and name.lower().endswith(_ALL_ARCHIVES):
        error, detail = ErrorCode.UNSUPPORTED, "It is an archive inside an archive."
    codec = _archive_codec(uri)
    return _Row(
        f"{'zip' if codec == 'zip' else 'tar'}://{member.name}::{uri}",
        name,
        _label(name) if label is None else label,
        uri,
        member.offset,
        member.length,
        member.size,
        codec,
        None if error is None else error.value,
        detail,
    )


def _archive_codec(uri: str) -> str | None:
    lower = uri.lower()
    return next((kind for end, kind in _ARCHIVES.items() if lower.endswith(end)), None)


def _archive_members(uri: str, limits: SourceLimits) -> Iterator[archives.Member]:
    """Members of an archive, by the kind that its name tells. Errors as `archives.tar_members`."""
    codec = _archive_codec(uri)
    if codec is None:
        raise ImageRejected(ErrorCode.UNSUPPORTED, "Archives are .tar, .tar.gz, .tgz or .zip.")
    with reading(uri), archives.FileBytes(uri) as file:
        if codec == "zip":
            yield from archives.zip_members(file, limits.max_archive_members)
            return
        magic = file.read_at(0, 2)
        if not magic:
            raise ImageRejected(ErrorCode.EMPTY, "The file has no bytes.")
        if codec == "tar" and magic == b"\x1f\x8b":
            raise ImageRejected(ErrorCode.UNREADABLE, "It is compressed: name it .tar.gz.")
        if codec == "tar.gz" and magic != b"\x1f\x8b":
            raise ImageRejected(ErrorCode.UNREADABLE, "It is no gzip file.")
        if codec == "tar":
            yield from archives.tar_members(file, limits.max_archive_members)
        else:
            stream = archives.GzipBytes(file, limits.max_expansion)
            yield from archives.tar_members(stream, limits.max_archive_members)
            stream.check_rest()


class _Spill:
    """Batches kept in a temporary file, and given back without the rows that later ones replace.

    Only the last of several members with the same name is there when they are unpacked, and which
    one is the last is known at the end alone. `./a.jpg` and `a.jpg` are the same name.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=4 << 20)  # noqa: SIM115 - see __exit__
        self._writer = pa.ipc.new_stream(self._file, PLAN_SCHEMA)
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep a batch."""
        self._writer.write_batch(batch)
        # The archive's own row has no container, and may be named as a member is.
        of_member = pc.is_valid(batch.column("container"))
        keys = pc.if_else(of_member, batch.column("name"), batch.column("uri"))
        self._hashes.append(_hashes(keys))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches, in order."""
        self._writer.close()
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        self._hashes.clear()
        last = len(hashes) - 1 - np.unique(hashes[::-1], return_index=True)[1]
        kept: npt.NDArray[np.bool_] | None = None
        if len(last) < len(hashes):
            kept = np.zeros(len(hashes), dtype=np.bool_)
            kept[last] = True
        self._file.seek(0)
        at = 0
        for batch in pa.ipc.open_stream(self._file):
            if kept is None:
                yield batch
            else:
                yield batch.filter(pa.array(kept[at : at + batch.num_rows]))
            at += batch.num_rows


# ---------------------------------------------------------------- rows and batches


def _batch(rows: list[_Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PLAN_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PLAN_SCHEMA)


def _label(name: str) -> str | None:
    folder, separator, _ = name.partition("/")
    return folder if separator and folder != ".." else None


def _error_row(uri: str, name: str, error: Exception) -> _Row:
    code, detail = storage.error_code(error).value, storage.error_detail(error)
    return _Row(uri, name, None, error=code, error_detail=detail)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    r"""A file name with the bytes that are no UTF-8 as `\\xNN`."""
    return name if _is_text(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def _rebatched(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of 10,000, however small or large they come."""
    kept: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        kept.append(batch)
        count += batch.num_rows
        if count >= _BATCH_ROWS:
            table = pa.Table.from_batches(kept).combine_chunks()
            whole = count - count % _BATCH_ROWS
            yield from table.slice(0, whole).to_batches(max_chunksize=_BATCH_ROWS)
            # Copied, or the small rest would keep the large buffers alive.
            kept = table.slice(whole).combine_chunks().to_batches()
            count -= whole
    if count:
        yield from pa.Table.from_batches(kept).combine_chunks().to_batches()


def _hashes(uris: pa.Array[Any]) -> npt.NDArray[np.uint64]:
    # Python's SipHash: with 64 bits, two of a million URIs collide once in 40 million plans.
    return np.fromiter(map(hash, uris.to_pylist()), dtype=np.int64).view(np.uint64)


class _Seen:
    """A set of URIs at 8 bytes each: sorted arrays of hashes, of about doubling size."""

    def __init__(self) -> None:
        self._levels: list[npt.NDArray[np.uint64]] = []

    def add(self, uris: pa.Array[Any]) -> npt.NDArray[np.bool_]:
        """Add these, and tell which ones are new."""
        hashes = _hashes(uris)
        new = np.zeros(len(hashes), dtype=np.bool_)
        new[np.unique(hashes, return_index=True)[1]] = True
        for level in self._levels:
            at = np.minimum(np.searchsorted(level, hashes), len(level) - 1)
            new &= level[at] != hashes
        level = hashes[new]
        level.sort()
        while self._levels and len(self._levels[-1]) <= 2 * len(level):
            level = np.concatenate([self._levels.pop(), level])
            level.sort(kind="stable")  # radix or merge: both are runs already
        if len(level):
            self._levels.append(level)
        return new


# ---------------------------------------------------------------- lists and tables


def _located(text: str, folder: str) -> str:
    """The URI of an entry. Raises ValueError."""
    if "://" in text or text.startswith("/") or not folder:
        return storage.to_uri(text)
    if storage.is_local(folder):
        return storage.to_uri(storage.local_path(folder) + text)
    bucket, _, key = folder.removeprefix("s3://").partition("/")
    if "./" in text:
        text = posixpath.normpath(posixpath.join("/" + key, text))[1:] + "/" * text.endswith("/")
        return f"s3://{bucket}/{text}"
    return folder + text


def _relative(uri: str, folder: str) -> tuple[str, str | None]:
    """Name and label of an entry: below the list's folder its path there, elsewhere its path."""
    if folder and uri.startswith(folder):
        name = uri[len(folder) :]
        return name, _label(name)
    return uri.partition("://")[2].lstrip("/"), None


def _lines(uri: str) -> _Entries:
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


def _csv_rows(uri: str) -> _Entries:
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


def _parquet_entries(table: Any, labelled: bool) -> _Entries:
    columns = ["uri", "label"] if labelled else ["uri"]
    row = 0
    for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
        labels = _strings(batch, "label") if labelled else [None] * batch.num_rows
        for uri, label in zip(_strings(batch, "uri"), labels, strict=True):
            if uri:
                yield uri, label
            else:
                yield ImageRejected(ErrorCode.UNREADABLE, f"Row {row} of the table has no URI.")
            row += 1


def _parquet_images(uri: str, table: Any, columns: set[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a table that holds the images themselves."""
    wanted = [name for name in ("uri", "name", "label") if name in columns]
    total = table.metadata.num_rows
    row = 0
    named = _Seen()  # two rows with one URI are two images: the later ones go by their number
    batches = table.iter_batches(_BATCH_ROWS, columns=wanted) if wanted else iter(())
    while row < total:
        given: dict[str, list[str | None]] = {}
        count = min(_BATCH_ROWS, total - row)
        if wanted:
            batch = next(batches)
            count = batch.num_rows
            given = {name: _strings(batch, name) for name in wanted}
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
                _Row(
                    shown or f"parquet://{row}::{uri}",
                    own_name or str(row),
                    label if label is not None or not name else _label(name),
                    uri,
                    row,
                    codec="row",
                )
            )
            row += 1
        yield _batch(rows)
