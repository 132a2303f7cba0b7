"""The files that a review leaves: new labels as a table, marked images as a list.

`catdog train --labels` takes the table, and every command the list. Each change writes both files whole,
so nothing is lost however the server ends; a later review continues with them.
"""

from __future__ import annotations

import csv
import io
import threading
from typing import TYPE_CHECKING

from catdog import storage
from catdog.errors import UserInputError, counted

if TYPE_CHECKING:
    from catdog.reviewing.rows import Rows

_COLUMNS = ("uri", "label", "labelled_before")


class Labels:
    """New labels and marks, in the rows and in their files.

    Args:
        rows: the rows they are of. They get those that the files have.
        table: URI of the CSV.

    Raises:
        UserInputError: the file is no such table.
    """

    def __init__(self, rows: Rows, table: str) -> None:
        self.table, self.marked = table, f"{table.removesuffix('.csv')}-marked.txt"
        self._rows = rows
        self._lock = threading.Lock()
        given = {row["uri"]: row for row in _table(table)}
        marked = _text(self.marked).splitlines()
        elsewhere = rows.mark_all({uri: row["label"] for uri, row in given.items()}, marked)
        # Kept as they are: of other images, or with a label that the model does not have.
        self._others = {uri: row for uri, row in given.items() if uri in elsewhere}
        self._others_marked = [uri for uri in marked if uri in elsewhere]

    def change(self, number: int, given: list[int] | None, *, marked: bool) -> None:
        """Set a row's new labels (None for none) and mark, and write the files.

        Raises:
            ValueError: there is no such row or label.
            OSError: they cannot be written.
        """
        with self._lock:
            uri = self._rows.mark(number, given, marked=marked)
            self._others.pop(uri, None)
            labels, uris = self._rows.marks()
            text = io.StringIO()
            lines = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
            lines.writerow(_COLUMNS)
            lines.writerows(
                [row.get(name) or "" for name in _COLUMNS] for row in self._others.values()
            )
            lines.writerows(labels)
            _write(self.table, text.getvalue())
            _write(self.marked, "".join(f"{uri}\n" for uri in [*self._others_marked, *uris]))

    def said(self) -> str:
        """A sentence for the page."""
        labels, marked = self._rows.marks()
        if not labels and not marked:
            return f"New labels and marks are saved as they are made, in {self.table}."
        return (
            f"Saved: {counted(len(labels), 'new label')} in {self.table}, {len(marked):,} marked in "
            f"{self.marked}."
        )


def _write(uri: str, text: str) -> None:
    storage.write_atomic(uri, text.encode("utf-8", "surrogateescape"))


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(uri, 1 << 30).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def _table(uri: str) -> list[dict[str, str]]:
    text = _text(uri)
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if text and not {"uri", "label"} <= {*(rows.fieldnames or ())}:
        raise UserInputError(f"--output {uri}: is not a table of labels; name another file")
    return [*rows]
