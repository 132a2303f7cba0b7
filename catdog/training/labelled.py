"""What there is to train on: the listed images with a class and a part each, checked before any work.

Names and labels stay in Arrow; what is computed for each image is a number.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import inputs
from catdog.errors import UserInputError
from catdog.inputs import splits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from catdog.inputs import Columns, SourceLimits

PARTS = ("test", "train", "validation")
"""The parts; `LabelledImages.parts` holds places in it."""
TEST, TRAIN, VALIDATION = range(3)
FEW_IMAGES = 5  # to train on; with fewer a class is warned of
_FOLDERS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
}


@dataclass(frozen=True)
class LabelledImages:
    """What there is to train on.

    Attributes:
        entries: the plan of all images with a label, in the order of their parts.
        labels: the classes, sorted by name.
        classes: class number of each entry, int32 (n,).
        parts: part of each entry as its place in `PARTS`, int8 (n,).
        parts_given: whether folders say which part an image belongs to.
        notices: what the user should know, a line each.
    """

    entries: pa.Table
    labels: tuple[str, ...]
    classes: NDArray[np.int32]
    parts: NDArray[np.int8]
    parts_given: bool
    notices: tuple[str, ...]


def list_labelled(
    images: Sequence[str],
    limits: SourceLimits,
    columns: Columns | None = None,
    *,
    validation: float,
    test: float,
    split_by_folder: bool = True,
    given_labels: str | None = None,
) -> LabelledImages:
    """List the images, with a label each and a part by its folder or by `splits.part_of`.

    Args:
        images: what the user named.
        limits: of the listing.
        columns: of tables.
        validation: fraction of the images, where no folder gives this part.
        test: likewise.
        split_by_folder: whether folders `train`, `val` and `test` are the parts, where there are no
            others; else they are classes.
        given_labels: a table whose labels take the place of the images' own.

    Raises:
        UserInputError: no labels, or a single one, or two that look alike; an empty train or
            validation part; a class without an image to train on.
    """
    plan = pa.Table.from_batches(
        list(inputs.list_images(images, limits, columns)), inputs.PLAN_SCHEMA
    )
    shown = " ".join(images)
    given = _parts_of_folders(plan, shown) if split_by_folder else None
    label_column, notices = plan["label"], []
    if given is not None:
        label_column, folder_parts = given
        notices.append(_said_of_folders(plan))
        present = {int(part) for part in np.unique(folder_parts)}
        validation = 0.0 if VALIDATION in present else validation
        test = 0.0 if TEST in present else test
    if given_labels is not None:
        label_column, line = _corrected(label_column, plan["uri"], given_labels, limits)
        notices.append(line)
    _refuse_unlabelled(plan["name"], label_column, shown)
    labels = tuple(sorted(pc.unique(label_column).to_pylist()))
    _refuse_labels(labels, shown)
    classes = pc.index_in(label_column, value_set=pa.array(labels, pa.string()))
    classes = np.asarray(classes, np.int32)
    parts = _parts_of_names(plan, validation=validation, test=test)
    if given is not None:
        parts = np.where(folder_parts == TRAIN, parts, folder_parts)
    for part in (TRAIN, VALIDATION):
        if not (parts == part).any():
            raise UserInputError(f"{shown}: no image falls into the {PARTS[part]} part")
    notices += _rare(labels, np.bincount(classes[parts == TRAIN], minlength=len(labels)))
    order = np.argsort(parts, kind="stable")  # blocks of one part each
    return LabelledImages(
        plan.take(pa.array(order)),
        labels,
        classes[order],
        parts[order],
        given is not None,
        tuple(notices),
    )


def _corrected(
    labels: pa.ChunkedArray, uris: pa.ChunkedArray, table: str, limits: SourceLimits
) -> tuple[pa.ChunkedArray, str]:
    """The labels, those of the table in the place of the images' own, and a line about them.

    Raises:
        UserInputError: the table has no labels, or none for these images.
    """
    given = pa.Table.from_batches(list(inputs.list_images([table], limits)), inputs.PLAN_SCHEMA)
    given = given.filter(given["label"].is_valid())
    at = pc.index_in(uris, value_set=given["uri"].combine_chunks())
    used = len(at) - at.null_count
    if not used:
        raise UserInputError(f"--labels {table}: no label in it is one of an image given")
    known = pa.chunked_array([given["label"].combine_chunks().take(at.combine_chunks())])
    line = f"{used:,} labels from {table}"
    if used < given.num_rows:
        line += f"; {given.num_rows - used:,} others in it are of no image given"
    return pc.coalesce(known, labels), line


def _refuse_unlabelled(names: pa.ChunkedArray, labels: pa.ChunkedArray, shown: str) -> None:
    unlabelled = labels.null_count
    if unlabelled and unlabelled == len(labels):
        raise UserInputError(
            f"{shown}: no labels; training wants one folder per class "
            "(or archives of such folders, or a table with a label column)"
        )
    if unlabelled:
        first = names[pc.index(labels.is_null(), value=True).as_py()].as_py()
        raise UserInputError(f"{shown}: {unlabelled} images have no label, among them {first!r}")


def _refuse_labels(labels: tuple[str, ...], shown: str) -> None:
    if len(labels) < 2:
        raise UserInputError(f"{shown}: {len(labels)} class found, training wants two or more")
    alike: dict[str, str] = {}
    for label in labels:
        other = alike.setdefault(unicodedata.normalize("NFC", label).casefold(), label)
        if other != label:
            # Their escapes tell apart what looks the same.
            raise UserInputError(
                f"{shown}: the classes {other!a} and {label!a} differ only in case or in the form of "
                "their Unicode; rename one of them"
            )


def _parts_of_folders(
    plan: pa.Table, shown: str
) -> tuple[pa.ChunkedArray, NDArray[np.int8]] | None:
    """Labels and parts where the first folders are parts and those below them are classes.

    Returns:
        Labels, and places in `PARTS` (n,); None where there are other folders, too.
    """
    found = pc.unique(plan["label"]).to_pylist()
    if not set(found) <= _FOLDERS.keys() or not {TRAIN} < {_FOLDERS[label] for label in found}:
        return None
    labels, parts = [], []
    for batch in plan.to_batches():
        folders = pc.split_pattern(batch["name"], "/", max_splits=2)
        first = pc.list_element(folders, 0)
        if not pc.all(pc.equal(first, batch["label"])).as_py():
            return None  # the labels are a table's
        deep = pc.equal(pc.list_value_length(folders), 3)
        if not pc.all(deep).as_py():
            name = batch["name"][pc.index(deep, value=False).as_py()].as_py()
            raise UserInputError(
                f"{shown}: {name!r} lies in no class's folder below {name.split('/')[0]}/; move it "
                "into one, or take these folders as classes with --split-by-folder no"
            )
        labels.append(pc.list_element(folders, 1))
        codes = pc.index_in(first, value_set=pa.array(list(_FOLDERS)))
        parts.append(np.array(list(_FOLDERS.values()), np.int8)[np.asarray(codes)])
    return pa.chunked_array(labels, pa.string()), np.concatenate(parts)


def _said_of_folders(plan: pa.Table) -> str:
    counts = {each["values"]: each["counts"] for each in pc.value_counts(plan["label"]).to_pylist()}
    shown = ", ".join(f"{name}/ {counts[name]:,}" for name in sorted(counts))
    return f"the folders are the parts: {shown} images (--split-by-folder no: they are classes)"


def _parts_of_names(plan: pa.Table, *, validation: float, test: float) -> NDArray[np.int8]:
    codes = {part: code for code, part in enumerate(PARTS)}
    parts = np.empty(plan.num_rows, np.int8)
    row = 0
    for batch in plan.select(["name"]).to_batches():
        for name in batch["name"].to_pylist():
            parts[row] = codes[splits.part_of(name, validation=validation, test=test)]
            row += 1
    return parts


def _rare(labels: tuple[str, ...], counts: NDArray[np.int64]) -> list[str]:
    """Lines about classes with few images to train on.

    Raises:
        UserInputError: one has none.
    """
    without = [label for label, count in zip(labels, counts, strict=True) if not count]
    if without:
        raise UserInputError(
            f"class {without[0]!r} has no image to train on"
            + (f", nor have {len(without) - 1} others" if len(without) > 1 else "")
            + "; add images, or leave the class out"
        )
    return [
        f"warning: class {label!r} has {count} image{'s' if count > 1 else ''} to train on"
        for label, count in zip(labels, counts, strict=True)
        if count < FEW_IMAGES
    ]
