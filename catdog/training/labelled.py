"""The images to train on, each with a class and a part, checked before any work.

Names and labels lie in a file; memory holds only a number for each image.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import inputs
from catdog.errors import UserInputError, counted
from catdog.inputs import splits
from catdog.training.entries import Entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from catdog.inputs import Columns, SourceLimits

PARTS = ("test", "train", "validation")
"""The parts; `LabelledImages.parts` holds places in it."""
TEST, TRAIN, VALIDATION = range(3)
FEW_IMAGES = 5  # to train on; with fewer a class is warned of
_FOLDERS = {folder: PARTS.index(part) for folder, part in splits.PART_FOLDERS.items()}


@dataclass(frozen=True)
class LabelledImages:
    """The images of a run.

    Attributes:
        entries: the plan of all images, each with a label.
        labels: the classes, sorted by name.
        classes: class number of each entry, int32 (n,); -1 where it has no label. Where images have
            several classes: the first of them, 0 where there is none.
        parts: part of each entry as its place in `PARTS`, int8 (n,).
        parts_given: whether folders say which part an image belongs to.
        notices: what the user should know, a line each.
        answers: where images have several classes: 1 for each of an image's, float32 (n, classes);
            else None.
    """

    entries: Entries
    labels: tuple[str, ...]
    classes: NDArray[np.int32]
    parts: NDArray[np.int8]
    parts_given: bool
    notices: tuple[str, ...]
    answers: NDArray[np.float32] | None = None


def list_labelled(
    images: Sequence[str],
    limits: SourceLimits,
    columns: Columns | None = None,
    *,
    validation: float,
    test: float,
    split_by_folder: bool = True,
    given_labels: str | None = None,
    unlabelled: bool = False,
    multi_label: bool = False,
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
        unlabelled: whether some may be without a label, to be trained on all the same.
        multi_label: whether `;` in a label stands between the classes of an image.

    Raises:
        UserInputError: no labels, or a single one, or two that look alike, or one with `;` that may
            be several; an empty train or validation part; a class without an image to train on.
    """
    found = _Labels()
    entries = Entries(inputs.list_images(images, limits, columns), found.add)
    shown = " ".join(images)
    notices: list[str] = []
    given = _parts_of_folders(entries, shown) if split_by_folder else None
    if given is not None:
        found, folder_parts, line = given
        notices.append(line)
        present = {int(part) for part in np.unique(folder_parts)}
        validation = 0.0 if VALIDATION in present else validation
        test = 0.0 if TEST in present else test
    elif split_by_folder:
        notices += _parts_among_classes(found)
    if given_labels is not None:
        found, taken, rows = _corrected(entries, found, given_labels, limits)
    _refuse_unlabelled(entries, found, shown, some=unlabelled)
    answers = None
    if multi_label:
        labels, answers = found.several()
        classes = answers.argmax(axis=1).astype(np.int32)
    else:
        labels, classes = found.sorted()
        _refuse_several(labels, shown)
    _refuse_labels(labels, shown)
    parts = _parts_of_names(entries, validation=validation, test=test)
    if given is not None:
        parts = np.where(folder_parts == TRAIN, parts, folder_parts)
    parts[classes < 0] = TRAIN
    if given_labels is not None:
        notices.append(_of_table(given_labels, parts[taken], rows))
    for part in (TRAIN, VALIDATION):
        if not (parts == part).any():
            raise UserInputError(f"{shown}: no image falls into the {PARTS[part]} part")
    notices += _rare(labels, images_of_classes(classes, answers, parts == TRAIN, len(labels)))
    return LabelledImages(
        entries, labels, classes, parts, given is not None, tuple(notices), answers
    )


def images_of_classes(
    classes: NDArray[np.int32],
    answers: NDArray[np.float32] | None,
    among: NDArray[Any],
    count: int,
) -> NDArray[np.int64]:
    """How many images each class has, (count,).

    Args:
        classes: as `LabelledImages.classes`.
        answers: as `LabelledImages.answers`.
        among: which images, as numbers or a mask.
        count: how many classes there are.
    """
    if answers is not None:
        several: NDArray[np.int64] = answers[among].sum(axis=0, dtype=np.int64)
        return several
    known = classes[among]
    return np.bincount(known[known >= 0], minlength=count)


class _Labels:
    """The labels of rows that come batch by batch, as numbers in order of arrival."""

    def __init__(self) -> None:
        self.names: dict[str | None, int] = {}
        self._codes: list[NDArray[np.int32]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """The next rows."""
        self.add_column(batch.column("label"))

    def add_column(self, column: pa.Array) -> None:
        """The labels of the next rows."""
        encoded = column.dictionary_encode(null_encoding="encode")
        codes = [
            self.names.setdefault(name, len(self.names)) for name in encoded.dictionary.to_pylist()
        ]
        self._codes.append(np.array(codes, np.int32)[encoded.indices.to_numpy()])

    @property
    def codes(self) -> NDArray[np.int32]:
        """The number of each row's label, (n,)."""
        if len(self._codes) != 1:
            self._codes = [np.concatenate([np.empty(0, np.int32), *self._codes])]
        return self._codes[0]

    def sorted(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """All labels by name, and for each row which one it has, (n,)."""
        labels = sorted(name for name in self.names if name is not None)
        place = {name: number for number, name in enumerate(labels)}
        rank = np.array([place.get(str(name), -1) for name in self.names], np.int32)
        return tuple(labels), rank[self.codes]

    def several(self) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """All classes by name, and for each row 1 for those it has, (n, classes)."""
        each = [inputs.classes_of(name or "") for name in self.names]
        labels = sorted({label for classes in each for label in classes})
        place = {label: number for number, label in enumerate(labels)}
        has = np.zeros((len(each), len(labels)), np.float32)
        for row, classes in enumerate(each):
            has[row, [place[label] for label in classes]] = 1
        return tuple(labels), has[self.codes]


def _corrected(
    entries: Entries, found: _Labels, table: str, limits: SourceLimits
) -> tuple[_Labels, NDArray[np.bool_], int]:
    """The labels, those of the table in the place of the images' own.

    Returns:
        The labels, which of them are the table's, (n,), and how many the table has.

    Raises:
        UserInputError: the table has no labels, or none for these images.
    """
    given = inputs.GivenLabels.read(table, limits)
    names, corrected, start = pa.array(list(found.names), pa.string()), _Labels(), 0
    taken = [np.empty(0, np.bool_)]
    for batch in entries.batches():
        own = names.take(pa.array(found.codes[start : start + batch.num_rows]))
        labels, are_given = given.over(batch["uri"], own)
        corrected.add_column(labels)
        taken.append(are_given)
        start += batch.num_rows
    if not any(each.any() for each in taken):
        raise UserInputError(f"--labels {table}: none of its labels belongs to a given image")
    return corrected, np.concatenate(taken), given.table.num_rows


def _of_table(table: str, parts: NDArray[np.int8], rows: int) -> str:
    """A line about the labels of a table.

    Args:
        table: what the user named.
        parts: of the images that have their label from it.
        rows: how many labels it has.
    """
    line = f"{counted(len(parts), 'label')} from {table}"
    counts = np.bincount(parts, minlength=len(PARTS))
    if counts[TRAIN] < len(parts):
        line += f": {counts[TRAIN]:,} to train on, {counts[VALIDATION]:,} to validate with"
        if counts[TEST]:
            line += f", {counts[TEST]:,} of the test part (`catdog evaluate --labels` takes them)"
    if len(parts) < rows:
        line += f"; {rows - len(parts):,} more in it are of no image given"
    return line


def _refuse_unlabelled(entries: Entries, found: _Labels, shown: str, *, some: bool) -> None:
    if None not in found.names:
        return
    unlabelled = found.codes == found.names[None]
    if unlabelled.all():
        raise UserInputError(
            f"{shown}: no labels; training needs one folder per class "
            "(or archives of such folders, or a table with a label column)"
        )
    if some:
        return
    first = entries.values(np.flatnonzero(unlabelled)[:1], "name")[0]
    raise UserInputError(
        f"{shown}: {counted(int(unlabelled.sum()), 'image')} without a label, such as {first!r}; "
        "only a --teacher can label them"
    )


def _refuse_several(labels: tuple[str, ...], shown: str) -> None:
    for label in labels:
        if inputs.SEVERAL in label:
            raise UserInputError(
                f"{shown}: is the label {label!r} several classes? Then add --multi-label; if it is "
                f"one, rename it without {inputs.SEVERAL!r}"
            )


def _refuse_labels(labels: tuple[str, ...], shown: str) -> None:
    if len(labels) < 2:
        found = f"{len(labels)} class found ({', '.join(labels)})"
        raise UserInputError(
            f"{shown}: {found}, training needs two or more; put the images of each class in a folder of "
            "its own, side by side, and name the folder above"
        )
    alike: dict[str, str] = {}
    for label in labels:
        other = alike.setdefault(_seen_alike(label), label)
        if other != label:
            # Their escapes tell apart what looks the same.
            raise UserInputError(
                f"{shown}: the classes {other!a} and {label!a} differ only in case, in spaces or in "
                "the form of their Unicode; rename one of them"
            )


def _seen_alike(label: str) -> str:
    """The common form of labels that look alike to people: width, case, spaces, invisible marks."""
    text = unicodedata.normalize("NFKC", label).casefold()
    shown = "".join(each for each in text if unicodedata.category(each) != "Cf")
    return unicodedata.normalize("NFKC", " ".join(shown.split()))


def _parts_of_folders(entries: Entries, shown: str) -> tuple[_Labels, NDArray[np.int8], str] | None:
    """Labels and parts where the first folders are parts, and those below them or a table classes.

    Returns:
        Labels, places in `PARTS` (n,), and a line about them; None where there are other folders.
    """
    names = pa.array(list(_FOLDERS))
    labels, found = _Labels(), []
    for batch in entries.batches():
        folders = pc.split_pattern(batch["name"], "/", max_splits=2)
        first = pc.list_element(folders, 0)
        codes = pc.index_in(pc.utf8_lower(first), value_set=names)
        depth = pc.list_value_length(folders)
        if codes.null_count or pc.min(depth).as_py() < 2:
            return None
        own = pc.fill_null(pc.equal(first, batch["label"]), fill_value=False)
        others = pc.utf8_lower(batch["label"].filter(pc.invert(own)))
        if pc.any(pc.is_in(others, value_set=names)).as_py():
            return None  # a table has them for classes
        deep = pc.or_(pc.equal(depth, 3), pc.invert(own))
        if not pc.all(deep).as_py():
            name = batch["name"][pc.index(deep, value=False).as_py()].as_py()
            raise UserInputError(
                f"{shown}: {name!r} is not in the folder of a class below {name.split('/')[0]}/; move it "
                "into one, or take these folders as classes with --split-by-folder no"
            )
        labels.add_column(pc.if_else(own, pc.list_element(folders, 1), batch["label"]))
        found.append(np.asarray(codes, np.int8))
    codes = np.concatenate([np.empty(0, np.int8), *found])
    parts = np.array(list(_FOLDERS.values()), np.int8)[codes]
    if not {TRAIN} < {int(part) for part in np.unique(parts)}:
        return None
    counts = zip(_FOLDERS, np.bincount(codes, minlength=len(_FOLDERS)).tolist(), strict=True)
    told = ", ".join(f"{name}/ {count:,}" for name, count in sorted(counts) if count)
    line = f"the folders are the parts: {told} images (--split-by-folder no: they are classes)"
    return labels, parts, line


def _parts_among_classes(found: _Labels) -> list[str]:
    """A line where some classes have the names of parts: most of the time others lie there by mistake."""
    names = sorted(filter(None, found.names))
    parts = {name: _FOLDERS[name.lower()] for name in names if name.lower() in _FOLDERS}
    others = [name for name in names if name not in parts]
    if not others or not {TRAIN} < set(parts.values()):
        return []
    told = ", ".join(f"{name}/" for name in parts)
    beside = f"since {others[0]}/ lies beside them; if they are the parts, move it away"
    return [f"the folders {told} are classes, not the parts, {beside}"]


def _parts_of_names(entries: Entries, *, validation: float, test: float) -> NDArray[np.int8]:
    codes = {part: code for code, part in enumerate(PARTS)}
    parts = np.empty(entries.num_rows, np.int8)
    row = 0
    for batch in entries.batches():
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
        f"warning: class {label!r} has {counted(count, 'image')} to train on"
        for label, count in zip(labels, counts, strict=True)
        if count < FEW_IMAGES
    ]
