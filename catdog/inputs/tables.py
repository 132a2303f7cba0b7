"""Lists, and tables as text: what their lines name."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa

from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import table_columns
from catdog.inputs.entries import is_text
from catdog.inputs.names import JSON_TABLES
from catdog.inputs.text_lines import MAX_LINE, SPACE, Lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.inputs.entries import Columns, SourceLimits

_CHUNK_ROWS = 10_000
_DELIMITERS = (",", ";", "\t", "|")
_MOST_HEADER_LINES = 100  # with those before the names
_BEFORE_HEADER = re.compile(r'\s*("?sep=."?\s*)?')  # of Excel; what it says is found anyway


class Entry(NamedTuple):
    """The entry in a line of a list or a row of a table; or what is wrong with it."""

    place: str
    """As in a fragment of a URI: `line=1` is the first line, `row=0` a table's first row."""
    text: str = ""
    """Path or URI."""
    label: str | None = None
    error: Exception | None = None
    kept: Any = None
    """Values of the row by column, a dictionary or an Arrow scalar, where columns are kept."""


Entries: TypeAlias = "Iterator[Entry]"


def wrong(place: str, what: str, values: Any = None) -> Entry:
    """An entry that cannot be read; what is kept of it may be."""
    return Entry(place, error=ImageRejected(ErrorCode.UNREADABLE, what), kept=values)


def list_entries(uri: str, limits: SourceLimits) -> Entries:
    """The entries of a list, one per line: a path or URI, in quotes if spaces around it count."""
    number = 1
    try:
        with contextlib.closing(Lines(uri, limits, newline="\n")) as lines:
            for line in lines:
                number = lines.number
                if line is None:
                    yield wrong(f"line={number}", f"Line {number} of the list is too long.")
                    continue
                text = line.strip(SPACE)
                if len(text) > 1 and text[0] == text[-1] == '"':
                    yield Entry(f"line={number}", text[1:-1])
                elif text and not text.startswith("#"):
                    yield Entry(f"line={number}", text)
    except (ImageRejected, UnicodeError) as error:
        yield _broken(number, error)


def table_entries(
    uri: str, columns: Columns, limits: SourceLimits, keep: pa.StructType | None = None
) -> Entries:
    """The entries of a table in CSV, TSV or JSON Lines, with the values of the columns to keep.

    Raises:
        UserInputError: its columns are not those of a table of URIs.
    """
    rows = _json_rows if uri.lower().endswith(JSON_TABLES) else _csv_rows
    return rows(uri, columns, limits, keep)


def schema(uri: str, columns: Columns, limits: SourceLimits) -> pa.Schema:
    """The columns of a table in CSV, TSV (all of them text) or JSON Lines (as its values are).

    Raises:
        UserInputError: it is damaged, or a column has values of several types.
        OSError: it cannot be read.
    """
    try:
        if not uri.lower().endswith(JSON_TABLES):
            with contextlib.closing(Lines(uri, limits, newline="")) as lines:
                names = _first_line(lines, uri, columns)[1]
            return pa.schema([(name, pa.string()) for name in dict.fromkeys(names) if name])
        with contextlib.closing(Lines(uri, limits, newline="\n")) as lines:
            found = pa.schema([])
            while rows := list(itertools.islice(filter(None, map(_object, lines)), _CHUNK_ROWS)):
                chunk = pa.Table.from_pylist(rows, pa.schema(_inferred(rows)))
                found = pa.unify_schemas([found, chunk.schema], promote_options="permissive")
            return found
    except (ImageRejected, UnicodeError, pa.ArrowException) as error:
        raise UserInputError(f"{uri}: --keep: {error}") from error


def _inferred(rows: list[dict[str, Any]]) -> Iterator[tuple[str, pa.DataType]]:
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            yield name, pa.array([row.get(name) for row in rows]).type
        except pa.ArrowException as error:
            what = f"its column {name} has values of several types"
            raise pa.ArrowInvalid(what) from error


def _first_line(lines: Lines, uri: str, columns: Columns) -> tuple[str, list[str]]:
    """What divides the columns of a table, and their names."""
    header = next(lines, "")
    while header is not None and not lines.ended and _BEFORE_HEADER.fullmatch(header):
        header = next(lines, "")
    tab = ".tsv" in uri.lower()[-7:]
    while header is not None and _is_open(header, tab=tab):
        more = next(lines, "")
        if not more or lines.number > _MOST_HEADER_LINES:
            raise UserInputError(f"{uri}: a quote in the names of its columns is not closed")
        header = None if more is None or len(header) + len(more) > MAX_LINE else header + more
    if header is None:
        raise UserInputError(
            f"{uri}: its first line has more than {MAX_LINE:,} letters; a table begins "
            "with the names of its columns"
        )
    return _header(header, columns, tab=tab)


def _csv_rows(
    uri: str, columns: Columns, limits: SourceLimits, keep: pa.StructType | None
) -> Entries:
    number = 1
    try:
        with contextlib.closing(Lines(uri, limits, newline="")) as lines:
            delimiter, names = _first_line(lines, uri, columns)
            uri_at, label_at = table_columns.choose(names, columns, uri)
            rows = csv.reader(_CsvLines(lines), delimiter=delimiter, skipinitialspace=True)
            while True:
                first = lines.number + 1
                row = None
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error:
                    pass
                number = lines.number
                if row is None or (lines.ended and first <= number):
                    yield wrong(f"line={first}", _damaged(first, number))
                    continue
                entry = _csv_entry(row, uri_at, label_at, first, number)
                if entry is not None and keep is not None:
                    values = dict(zip(names, row, strict=False))
                    entry = entry._replace(kept=_of(values, keep))
                if entry is not None:
                    yield entry
    except (ImageRejected, UnicodeError) as error:
        yield _broken(number, error)


class _CsvLines:
    """Lines for a csv.reader; raises at one that is too long, and may continue after it."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            raise csv.Error("the line is too long")
        return line


def _damaged(first: int, last: int) -> str:
    if first == last:
        return f"Line {first} of the table is damaged or too long."
    return f"Lines {first} to {last} of the table are damaged: is a quote not closed?"


def _csv_entry(
    row: list[str], uri_at: int, label_at: int | None, first: int, last: int
) -> Entry | None:
    """The entry of a row in these lines; nothing for an empty one."""
    values = [value.strip(SPACE) for value in row]
    if not any(values):
        return None
    text = values[uri_at] if uri_at < len(values) else ""
    label = values[label_at] if label_at is not None and label_at < len(values) else ""
    if "\n" in text + label or "\r" in text + label:
        return wrong(f"line={first}", _damaged(first, last))
    return _checked(first, text, label or None)


def _is_open(header: str, *, tab: bool) -> bool:
    """Whether the last of the names goes on in the next line: a quote is open."""
    for delimiter in ("\t",) if tab else _DELIMITERS:
        try:
            list(csv.reader([header], delimiter=delimiter, skipinitialspace=True, strict=True))
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                return True
    return False


def _header(text: str, columns: Columns, *, tab: bool) -> tuple[str, list[str]]:
    """What divides the columns of a table, and their names."""
    parsed: list[tuple[str, list[str]]] = []
    for delimiter in ("\t",) if tab else _DELIMITERS:
        try:
            names = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            names = []
        parsed.append((delimiter, [name.strip(SPACE) for name in names]))
    wanted = table_columns.usual(columns)
    for delimiter, names in parsed:
        if wanted & {name.lower() for name in names}:
            return delimiter, names
    return max(parsed, key=lambda each: len(each[1]))


def _checked(number: int, text: str, label: str | None) -> Entry:
    place = f"line={number}"
    if not text:
        return wrong(place, f"Line {number} of the table has no URI.")
    if label is not None and not is_text(label):
        return wrong(place, f"The label in line {number} of the table is not valid UTF-8.")
    return Entry(place, text, label)


def _of(values: dict[str, Any], keep: pa.StructType) -> dict[str, Any]:
    """The values that are kept; text that no file can hold is none."""
    wanted = ((field.name, values.get(field.name)) for field in keep)
    return {
        name: None if isinstance(value, str) and not is_text(value) else value
        for name, value in wanted
    }


def _json_rows(
    uri: str, columns: Columns, limits: SourceLimits, keep: pa.StructType | None
) -> Entries:
    chosen: str | None = None
    label_seen = columns.label_column is None
    number = 1
    try:
        with contextlib.closing(Lines(uri, limits, newline="\n")) as lines:
            for line in lines:
                number = lines.number
                if line is not None and not line.strip(SPACE):
                    continue
                row = _object(line)
                if row is None:
                    what = f"Line {number} of the table is not a JSON object, or too long."
                    yield wrong(f"line={number}", what)
                    continue
                names = list(row)
                if chosen is None:
                    chosen = names[table_columns.choose_uri(names, columns, uri)]
                label_at = table_columns.find_label(names, columns, uri)
                label_seen = label_seen or label_at is not None
                label = None if label_at is None else row[names[label_at]]
                entry = _json_entry(number, row.get(chosen), label)
                yield entry if keep is None else entry._replace(kept=_of(row, keep))
    except (ImageRejected, UnicodeError) as error:
        yield _broken(number, error)
    if chosen is None:
        raise UserInputError(f"{uri}: no line is a JSON object with a column of URIs")
    if not label_seen:
        raise UserInputError(f"{uri}: no line has the --label-column {columns.label_column}")


def _object(line: str | None) -> dict[str, Any] | None:
    try:
        row = json.loads(line or "")
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _json_entry(number: int, text: Any, label: Any) -> Entry:
    if isinstance(label, list) and all(isinstance(each, str | int) for each in label):
        label = table_columns.joined(label)
    if isinstance(label, float):
        label = table_columns.class_number(label)
        if label is False:
            return wrong(
                f"line={number}", f"The label in line {number} is not the number of a class."
            )
    if not isinstance(label, str | int | None):
        return wrong(f"line={number}", f"The label in line {number} of the table is not text.")
    if isinstance(text, dict) and not text.get("bytes"):  # as the library `datasets` names images
        text = text.get("path")
    text = text.strip(SPACE) if isinstance(text, str) else ""
    if label is not None:
        label = (label if isinstance(label, str) else json.dumps(label)).strip(SPACE) or None
    return _checked(number, text, label)


def _broken(number: int, error: Exception) -> Entry:
    if isinstance(error, ImageRejected):
        return Entry(f"line={number}", error=error)
    what = f"Its text is damaged near line {number}; what comes after it is lost."
    return wrong(f"line={number}", what)
