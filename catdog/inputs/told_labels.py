"""Labels from files beside the images: WebDataset's samples, Hugging Face's `metadata.csv`."""

from __future__ import annotations

import json
import logging
import posixpath
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from catdog.errors import ErrorCode, ImageRejected, UserInputError, printable
from catdog.inputs import parquet_rows, tables, walking
from catdog.inputs.entries import PLAN_SCHEMA, Columns, is_text
from catdog.inputs.unique import hashes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from catdog.inputs.entries import SourceLimits

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_LABEL = 200  # letters; what is longer is a text about the image
_CHUNK = 10_000
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Not all of `splits.PART_FOLDERS`: each costs a store three requests.
_PARTS = ("train", "training", "val", "valid", "validation", "test", "testing")


class Told(NamedTuple):
    """The label of an image, or a fault."""

    label: str | None = None
    fault: str | None = None
    """Why there is no label, a sentence."""


class Named(Generic[T]):
    """Labels by name of the image; 20 bytes each, and each value once."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._new: list[int] = []
        self._told: dict[T, int] = {}
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._codes: list[npt.NDArray[np.int32]] = []
        self._sorted = False

    def add(self, name: str, told: T) -> None:
        """Add the label of a name; the last of several counts."""
        self._names.append(_composed(name))
        self._new.append(self._told.setdefault(told, len(self._told)))
        if len(self._names) >= _CHUNK:
            self._flush()

    def of(self, names: Iterable[str]) -> list[T | None]:
        """The label of each of these names, or None."""
        keys = hashes(pa.array([_composed(name) for name in names], pa.string()))
        known, codes = self._index()
        if not len(known):
            return [None] * len(keys)
        at = np.searchsorted(known[:, 0], keys[:, 0], side="right") - 1
        found = (at >= 0) & (known[at] == keys).all(axis=1)
        everything = list(self._told)
        return [
            everything[code] if sure else None
            for code, sure in zip(codes[at].tolist(), found.tolist(), strict=True)
        ]

    def _flush(self) -> None:
        if self._names:
            self._hashes.append(hashes(pa.array(self._names, pa.string())))
            self._codes.append(np.array(self._new, np.int32))
            self._names, self._new, self._sorted = [], [], False

    def _index(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        self._flush()
        if not self._sorted:
            keys = np.concatenate([np.empty((0, 2), np.uint64), *self._hashes])
            codes = np.concatenate([np.empty(0, np.int32), *self._codes])
            order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
            self._hashes, self._codes, self._sorted = [keys[order]], [codes[order]], True
        return self._hashes[0], self._codes[0]


ToldLabels: TypeAlias = Named[Told]


def _composed(name: str) -> str:
    """A name in the one form of its Unicode: macOS decomposes names, tables do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def relabelled(
    rows: pa.RecordBatch, told: Sequence[Told | None], *, keep: bool = False
) -> pa.RecordBatch:
    """The rows with their labels from the files; a row with a faulty label is `unreadable`.

    Args:
        rows: PLAN_SCHEMA.
        told: label or fault of each row, or None.
        keep: whether rows without a label from the files keep their own.
    """
    columns = {name: rows.column(name).to_pylist() for name in ("label", "error", "error_detail")}
    for at, each in enumerate(told):
        if each is not None or not keep:
            columns["label"][at] = None if each is None else each.label
        if each is not None and each.fault is not None and columns["error"][at] is None:
            columns["error"][at] = ErrorCode.UNREADABLE.value
            columns["error_detail"][at] = each.fault
    for name, values in columns.items():
        field = PLAN_SCHEMA.field(name)
        rows = rows.set_column(
            PLAN_SCHEMA.get_field_index(name), field, pa.array(values, field.type)
        )
    return rows


def sample_of(path: str) -> str:
    """The part of a name that all members of a WebDataset sample share: up to the first dot of the base name."""
    folder, base = posixpath.split(path)
    return posixpath.join(folder, base.partition(".")[0])


class SampleLabels:
    """Where the labels of WebDataset samples are, and how to read them.

    Args:
        label_from: as `Columns.label_from`.
    """

    def __init__(self, label_from: str) -> None:
        extension, _, self._key = label_from.partition(":")
        self._extension = extension
        self.told = ToldLabels()

    def are_in(self, path: str) -> bool:
        """Whether a member of this name holds a label."""
        base = re.split(r"[/\\]", path)[-1]
        return base.partition(".")[2].lower() == self._extension

    def read(self, path: str, content: bytes | ImageRejected) -> None:
        """Take the label in a member."""
        self.told.add(sample_of(path), self._told(posixpath.basename(path), content))

    def _told(self, name: str, content: bytes | ImageRejected) -> Told:
        if isinstance(content, ImageRejected):
            return Told(fault=f"The label in {name!a} cannot be read: {content.detail}")
        try:
            text = content.decode("utf-8-sig").strip()
            if self._extension == "json":
                value = json.loads(text).get(self._key)
                text = value if isinstance(value, str) else ""
                if isinstance(value, int):
                    text = json.dumps(value)
        except (ValueError, AttributeError, RecursionError):
            text = ""
        text = text.strip()
        if not text or len(text) > _LONGEST_LABEL or "\n" in text or not is_text(text):
            key = f" under {self._key!a}" if self._extension == "json" else ""
            return Told(fault=f"There is no label in {name!a}{key}: one line of text is wanted.")
        return Told(text)


def folder_tables(base: str) -> list[str]:
    """Names of the tables beside the images of a folder, relative to it.

    Args:
        base: URI of the folder, with a final `/`.
    """
    names = [f"{part}{name}" for part in ("", *(f"{p}/" for p in _PARTS)) for name in _METADATA]
    with ThreadPoolExecutor(len(names)) as pool:
        there = list(pool.map(walking.is_file, [base + name for name in names]))
    return [name for name, is_there in zip(names, there, strict=True) if is_there]


def folder_entries(
    uri: str, columns: Columns, limits: SourceLimits, keep: pa.StructType | None = None
) -> Iterable[tables.Entry]:
    """The entries of one of these tables, as `tables.table_entries`."""
    if uri.endswith(".parquet"):
        return parquet_rows.entries(uri, columns, limits, keep)
    return tables.table_entries(uri, columns, limits, keep)


def folder_labels(base: str, columns: Columns, limits: SourceLimits) -> ToldLabels | None:
    """The labels in a Hugging Face image folder's `metadata.csv`, `.jsonl` or `.parquet`.

    The tables lie beside the images, or in the folders of parts (`train/`). A table without a column
    `file_name`, or without labels, is about something else and is ignored.

    Args:
        base: URI of the folder, with a final `/`.
        columns: `label_column` names the labels' one.
        limits: of reading.

    Raises:
        OSError: one cannot be read.
        UserInputError: one has two columns of a name, or is damaged.
    """
    found = ToldLabels()
    any_told = False
    for name in folder_tables(base):
        folder = posixpath.dirname(name)
        for path, label in _rows(base + name, columns, limits):
            any_told = True
            found.add(posixpath.normpath(posixpath.join(folder, path)), Told(label))
    return found if any_told else None


def _rows(uri: str, columns: Columns, limits: SourceLimits) -> Iterable[tuple[str, str]]:
    """File names and labels in one of these tables."""
    wanted = Columns("file_name", columns.label_column)
    damaged = 0
    try:
        for entry in folder_entries(uri, wanted, limits):
            damaged += entry.error is not None
            if entry.error is None and entry.label is not None:
                yield entry.text, entry.label
    except UserInputError as refused:
        if re.search(r", not text$", str(refused)):
            logger.warning("%s; it gives no labels", printable(str(refused)))
        elif not re.search(r": there is no (column|--)", str(refused)):
            raise
        return
    if damaged:
        logger.warning("%s: damaged lines, which give no labels: %d", printable(uri), damaged)
