"""Decoded pictures kept between runs, so that none is decoded twice (`--cache`).

The cache has a folder for each preprocessing. It holds Arrow IPC files with the columns `key`,
`uri` and `pixels`, and Parquet files `index-*` with `key`, `file` and `row`. A key is a digest of what a
picture was decoded from: its URI, its place, and its source's stamp (size and modification time, or
ETag). Each file is written whole under a unique name and never changed. So no two writers meet, and
a killed run leaves files that the next run finds and indexes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog import storage
from catdog.errors import DiskFullError, UserInputError
from catdog.pixels import as_binary, as_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from catdog.pixels import DecodeLimits, Preprocessing

COLUMNS = ("index", "error", "error_detail", "pixels")
"""The columns that `CachedDecoder` gives."""
_KEY_BYTES = 16
_INDEX_SCHEMA = pa.schema(
    [("key", pa.binary(_KEY_BYTES)), ("file", pa.string()), ("row", pa.int32())]
)
_INDEX_FILE = re.compile(r"index-[0-9a-f]{32}\.parquet")
_PICTURES_FILE = re.compile(r"[0-9a-f]{32}\.arrow")
_ABOUT_FILE = "about.json"
_THREADS = 16  # that wait for a store
_OPEN_FILES = 4
_MAX_FILE_BYTES = 2**34


@dataclass(frozen=True)
class Index:
    """Where each picture of a cache lies.

    Attributes:
        folder: URI.
        files: names.
        keys: sorted, `S16` (n,).
        file_of: which of the files, int32 (n,).
        row_of: which row of it, int32 (n,).
    """

    folder: str
    files: tuple[str, ...]
    keys: NDArray[np.bytes_]
    file_of: NDArray[np.int32]
    row_of: NDArray[np.int32]

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Place of each key in `keys`, -1 where it is not there."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((self.keys[places] == keys) & (keys != b""), places, -1)


def opened(cache: str, preprocessing: Preprocessing, limits: DecodeLimits) -> Index:
    """The index of a cache, a path or URI, for this preprocessing.

    Makes its folder if there is none.

    Raises:
        UserInputError: nothing can be written there.
        DiskFullError: a new cache finds no space.
    """
    about = {
        "preprocessing": preprocessing.to_json_dict(),
        "limits": asdict(limits),
        "pillow": PIL.__version__,  # another version may decode to other pixels
    }
    text = json.dumps(about, sort_keys=True).encode()
    digest = hashlib.blake2b(text, digest_size=8).hexdigest()
    size = f"{preprocessing.height}x{preprocessing.width}"
    try:
        folder = storage.join(storage.to_uri(cache), f"{size}-{preprocessing.resize}-{digest}")
        about_file = storage.join(folder, _ABOUT_FILE)
        if not storage.exists(about_file):  # a cache on a full disk can still be read
            storage.write_new(about_file, text + b"\n")
    except (OSError, ValueError) as error:
        said = storage.error_detail(error) if isinstance(error, OSError) else str(error)
        raise UserInputError(f"--cache {cache}: {said}") from error
    return read_index(folder)


def read_index(folder: str) -> Index:
    """The content of a cache's folder. Files that no index names yet get one."""
    names = storage.list_names(folder)
    files = [name for name in names if _PICTURES_FILE.fullmatch(name)]
    with ThreadPoolExecutor(_THREADS) as pool:
        indexes = [name for name in names if _INDEX_FILE.fullmatch(name)]
        tables = list(pool.map(lambda name: _entries_of_index(folder, name), indexes))
        known = pa.concat_tables([*tables, _INDEX_SCHEMA.empty_table()])
        new = sorted(set(files) - set(known["file"].unique().to_pylist()))
        tables = list(pool.map(lambda name: _entries_of(folder, name), new))
    if new:
        found = pa.concat_tables(tables)
        file = io.BytesIO()
        pq.write_table(found, file, compression="zstd")
        with contextlib.suppress(OSError, DiskFullError):
            storage.write_atomic(
                storage.join(folder, f"index-{secrets.token_hex(16)}.parquet"), file.getvalue()
            )
        known = pa.concat_tables([known, found])
    return _sorted(folder, tuple(files), known)


def _sorted(folder: str, files: tuple[str, ...], known: pa.Table) -> Index:
    file_of = known["file"].combine_chunks()
    file_of = pc.index_in(file_of, value_set=pa.array(files, pa.string()))
    there = np.flatnonzero(file_of.is_valid().to_numpy(zero_copy_only=False))
    keys = _as_keys(known["key"])[there]
    order = np.argsort(keys, kind="stable")
    there = there[order]
    return Index(
        folder,
        files,
        keys[order],
        file_of.fill_null(0).to_numpy()[there].astype(np.int32),
        known["row"].to_numpy()[there],
    )


def _as_keys(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    array = column.combine_chunks()
    keys = np.frombuffer(array.buffers()[1] or b"", f"S{_KEY_BYTES}")
    return keys[array.offset : array.offset + len(array)]


def _entries_of_index(folder: str, name: str) -> pa.Table:
    uri = storage.join(folder, name)
    found = [_INDEX_SCHEMA.empty_table()]
    with _spoilt_deleted(uri):
        data = storage.read_bytes(uri, _MAX_FILE_BYTES)
        found.append(pq.read_table(pa.BufferReader(data), schema=_INDEX_SCHEMA))
    return found[-1]


def _entries_of(folder: str, name: str) -> pa.Table:
    uri = storage.join(folder, name)
    found = [_INDEX_SCHEMA.empty_table()]
    with _spoilt_deleted(uri), storage.open_input(uri) as file:
        options = pa.ipc.IpcReadOptions(included_fields=[0])
        keys = pa.ipc.open_file(file, options=options).read_all()["key"]
        count = len(keys)
        found.append(pa.table([keys, [name] * count, range(count)], schema=_INDEX_SCHEMA))
    return found[-1]


@contextlib.contextmanager
def _spoilt_deleted(uri: str) -> Iterator[None]:
    """Read a file within the block. A file that Arrow cannot read is deleted; a missing one is ignored."""
    try:
        yield
    except (pa.ArrowException, KeyError, FileNotFoundError):
        with contextlib.suppress(OSError):
            storage.delete(uri)


def keys_of(entries: pa.Table) -> NDArray[np.bytes_]:
    """The key of each entry; empty where its source has no stamp."""
    names = ["uri", "container", "offset", "length", "size", "stamp"]
    columns = (entries[name].to_pylist() for name in names)
    keys = [
        hashlib.blake2b(json.dumps(row).encode(), digest_size=_KEY_BYTES).digest()
        if row[-1] is not None
        else b""
        for row in zip(*columns, strict=True)
    ]
    return np.array(keys, f"S{_KEY_BYTES}")


_Pictures: TypeAlias = "tuple[NDArray[np.bytes_], NDArray[np.uint8]]"


class CachedDecoder:
    """Gives decoded pictures from the cache, and adds those that it has to decode.

    Pictures that cannot be decoded are tried again each time.

    Args:
        index: of the cache.
        shape: of a picture: height, width, 3.
        decoder: makes what decodes tables of entries with a column `index`; called once it is needed.

    Attributes:
        fetched: how many pictures came from the cache.
        kept: how many it was given. A cache that is full costs the run nothing.
    """

    def __init__(
        self,
        index: Index,
        shape: tuple[int, int, int],
        decoder: Callable[[], Callable[[pa.Table], pa.Table]],
    ) -> None:
        self._index, self._shape, self._make_decoder = index, shape, decoder
        self._decode: Callable[[pa.Table], pa.Table] | None = None
        self._open: OrderedDict[int, _Pictures | None] = OrderedDict()
        self.fetched = self.kept = 0

    def __call__(self, entries: pa.Table) -> pa.Table:
        """One row with the columns `COLUMNS` for every entry."""
        keys = keys_of(entries)
        pixels = np.zeros((len(keys), *self._shape), np.uint8)
        found = self._fetch(keys, pixels)
        self.fetched += int(found.sum())
        errors, details = pa.nulls(len(keys), pa.string()), pa.nulls(len(keys), pa.string())
        if not found.all():
            missing = np.flatnonzero(~found)
            lacking = entries.take(pa.array(missing))
            if self._decode is None:
                self._decode = self._make_decoder()
            decoded = self._decode(lacking)
            pixels[missing] = as_pixels(decoded["pixels"], self._shape)
            mask = pa.array(~found)
            errors = pc.replace_with_mask(
                errors, mask, decoded["error"].combine_chunks().cast(pa.string())
            )
            details = pc.replace_with_mask(details, mask, decoded["error_detail"].combine_chunks())
            good = decoded["error"].is_null().to_numpy(zero_copy_only=False)
            self._keep(lacking, keys[missing], decoded, good & (keys[missing] != b""))
        columns = [entries["index"], errors, details, as_binary(pixels)]
        return pa.table(dict(zip(COLUMNS, columns, strict=True)))

    def _fetch(self, keys: NDArray[np.bytes_], pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Fill in the pictures that the cache has; returns which."""
        places = self._index.find(keys)
        found = places >= 0
        for number in np.unique(self._index.file_of[places[found]]).tolist():
            rows = np.flatnonzero(found & (self._index.file_of[places] == number))
            file = self._file(number)
            if file is None:
                found[rows] = False
                continue
            its_keys, its_pixels = file
            its_rows = self._index.row_of[places[rows]]
            if not np.array_equal(its_keys[np.minimum(its_rows, len(its_keys) - 1)], keys[rows]):
                found[rows] = False  # another file has its name
                self._forget(number)
                continue
            pixels[rows] = its_pixels[its_rows]
        return found

    def _file(self, number: int) -> _Pictures | None:
        """Keys and pictures of a file; None where it cannot be read (any more)."""
        if number not in self._open:
            self._open[number] = None
            uri = storage.join(self._index.folder, self._index.files[number])
            with _spoilt_deleted(uri):
                source = (
                    pa.memory_map(storage.local_path(uri))
                    if storage.is_local(uri)
                    else pa.BufferReader(storage.read_bytes(uri, _MAX_FILE_BYTES))
                )
                table = pa.ipc.open_file(source).read_all()
                self._open[number] = (
                    _as_keys(table["key"]),
                    as_pixels(table["pixels"], self._shape),
                )
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        return self._open[number]

    def _forget(self, number: int) -> None:
        self._open[number] = None
        storage.delete(storage.join(self._index.folder, self._index.files[number]))

    def _keep(
        self,
        entries: pa.Table,
        keys: NDArray[np.bytes_],
        decoded: pa.Table,
        good: NDArray[np.bool_],
    ) -> None:
        if not good.any():
            return
        whole_keys = [key.ljust(_KEY_BYTES, b"\0") for key in keys[good].tolist()]
        mask = pa.array(good)
        table = pa.table(
            {
                "key": pa.array(whole_keys, pa.binary(_KEY_BYTES)),
                "uri": entries["uri"].filter(mask),
                "pixels": decoded["pixels"].filter(mask),
            }
        ).combine_chunks()
        uri = storage.join(self._index.folder, f"{secrets.token_hex(16)}.arrow")
        with contextlib.suppress(OSError, DiskFullError):
            with storage.open_atomic(uri) as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            self.kept += table.num_rows
