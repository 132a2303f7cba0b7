"""Which columns of a table name the images and their labels, and what values of text are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from catdog.errors import UserInputError
from catdog.inputs.entries import is_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catdog.inputs.entries import Columns

SEVERAL = ";"
"""Stands between the classes of an image that has several."""

_USUAL = frozenset("url path file file_name filename image image_path s3_uri".split())
"""Names of a column of URIs, in small letters, where there is none called `uri`."""


def usual(columns: Columns) -> set[str]:
    """Names that the column of URIs may have, in small letters."""
    return {columns.uri_column.lower()} if columns.uri_column else {"uri", *_USUAL}


def choose(names: Sequence[str], columns: Columns, table: str) -> tuple[int, int | None]:
    """Places of the columns of URIs and of labels.

    Raises:
        UserInputError: there is none of URIs or more than one, with the columns found; or none of
            labels where one was asked for.
    """
    return choose_uri(names, columns, table), choose_label(names, columns, table)


def choose_uri(names: Sequence[str], columns: Columns, table: str) -> int:
    """Place of the column of URIs. Raises as `choose`."""
    wanted, name = "column uri", "uri"
    if columns.uri_column is not None:
        wanted, name = f"--uri-column {columns.uri_column}", columns.uri_column
    at = _place(names, name, table)
    if at is None and columns.uri_column is None:
        others = [place for place, each in enumerate(names) if each.lower() in _USUAL]
        if len(others) > 1:
            both = " and ".join(names[other] for other in others)
            raise UserInputError(
                f"{table}: its columns {both} may all name the images; choose one with --uri-column"
            )
        at = others[0] if others else None
    if at is None:
        ask = "" if columns.uri_column else "; name that of the paths with --uri-column"
        raise UserInputError(f"{table}: there is no {wanted}; {_found(names)}{ask}")
    return at


def choose_label(names: Sequence[str], columns: Columns, table: str) -> int | None:
    """Place of the column of labels, or None where there is none. Raises as `choose`."""
    at = find_label(names, columns, table)
    if at is None and columns.label_column is not None:
        wanted = f"--label-column {columns.label_column}"
        raise UserInputError(f"{table}: there is no {wanted}; {_found(names)}")
    return at


def find_label(names: Sequence[str], columns: Columns, table: str) -> int | None:
    """Place of the column of labels, or None. Raises where there are two."""
    return _place(names, columns.label_column or "label", table)


def _place(names: Sequence[str], name: str, table: str) -> int | None:
    """Where a column is: of this spelling, else in any case."""
    for places in (
        [at for at, each in enumerate(names) if each == name],
        [at for at, each in enumerate(names) if each.lower() == name.lower()],
    ):
        if len(places) == 1:
            return places[0]
        if places:
            raise UserInputError(f"{table}: it has {len(places)} columns {name}; {_found(names)}")
    return None


def _found(names: Sequence[str]) -> str:
    short = [name[:40] for name in names[:20] if name]
    shown = [name if name.isprintable() else ascii(name)[1:-1] for name in short]
    return f"it has the columns {', '.join(shown)}" if shown else "it has no columns with names"


def joined(labels: Sequence[object]) -> str:
    """A list of labels as one text, `SEVERAL` between them; that sign alone where there are none."""
    return SEVERAL.join(str(label) for label in labels if label is not None) or SEVERAL


def classes_of(label: str) -> list[str]:
    """The classes that a text names with `SEVERAL` between them, each once."""
    return list(dict.fromkeys(filter(None, map(str.strip, label.split(SEVERAL)))))


def class_number(value: float | None) -> str | Literal[False] | None:
    """The text of a class's number; None where it is missing (NaN), False where it is no number of one."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    return str(int(value)) if float(value).is_integer() else False


def label_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str]:
    """Names of the classes of a column of numbers, as the library `datasets` writes them; or none."""
    try:
        told = json.loads((metadata or {})[b"huggingface"])
        names = told["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    sound = isinstance(names, list) and all(isinstance(n, str) and is_text(n) for n in names)
    return names if sound else []
