"""All rows of results in a database, to search, sort and mark them.

It is a file of this process, and holds a row in about as many bytes as its URI has. A search's answer
is the numbers of its rows, 8 bytes each; only the rows that somebody looks at leave the database.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import numpy as np
import pyarrow as pa

from catdog import inputs
from catdog.errors import ErrorCode
from catdog.reporting import READ_THREADS, in_order, index, millionths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from catdog.observer import Observer
    from catdog.reporting import Findings

_INSERTED_TOGETHER = 50_000
_KEPT_SEARCHES = 4
_NUMBERS = pa.list_(pa.int32())
_OUTCOMES = {
    "": "true",
    "right": "truth >= 0 and truth = label",
    "wrong": "truth >= 0 and label >= 0 and truth <> label",
    "changed": "changed",
    "marked": "marked",
    "given": "given is not null",
    "classified": "label >= 0",
    "rejected": "label < 0",
}
_ORDERS = {
    "plan": "id",
    "certain": "millionths desc, id",
    "doubtful": "millionths, id",
    "name": "lower(uri), id",
}


@dataclass(frozen=True)
class Query:
    """A search; -1 stands for any.

    Attributes:
        name: part of the URI, in small letters.
        label: number of the best class.
        truth: number of the true class.
        low: least probability, in millionths.
        high: probability that it is below, likewise.
        outcome: of the page's list: `wrong`, `error 3`, ...
        order: `plan`, `certain`, `doubtful` or `name`.
        search: identifies the search of a page; another one reads the marks again.
    """

    name: str = ""
    label: int = -1
    truth: int = -1
    low: int = 0
    high: int = -1
    outcome: str = ""
    order: Literal["plan", "certain", "doubtful", "name"] = "plan"
    search: str = ""

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> Query:
        """What a page asks for.

        Raises:
            ValueError: it cannot be asked for.
        """
        order, outcome = fields["order"], fields["outcome"]
        if order not in _ORDERS:
            raise ValueError(f"order {order}")
        if not outcome.startswith("error ") and outcome not in _OUTCOMES:
            raise ValueError(f"outcome {outcome}")
        numbers = {name: int(fields[name]) for name in ("label", "truth", "low", "high")}
        texts = {name: fields[name] for name in ("name", "outcome", "search")}
        return cls(**numbers, **texts, order=order)  # type: ignore[arg-type]

    def sql(self) -> tuple[str, list[Any]]:
        """The statement that finds the numbers of the rows, in order, and its values."""
        terms, values = [], list[Any]()
        if self.outcome.startswith("error "):
            terms.append("error = ?")
            values.append(int(self.outcome.removeprefix("error ")))
        else:
            terms.append(_OUTCOMES[self.outcome])
        if self.name:
            terms.append("contains(lower(uri), ?)")
            values.append(self.name)
        for column, wanted in (("label", self.label), ("truth", self.truth)):
            if wanted >= 0:
                terms.append(f"{column} = ?")
                values.append(wanted)
        # As in the page by itself: the next millionth, since they are rounded down.
        if self.low or self.high >= 0:
            terms.append("label >= 0 and millionths + 1 >= ?")
            values.append(self.low)
        if self.high >= 0:
            terms.append("millionths + 1 < ?")
            values.append(self.high)
        order = _ORDERS[self.order]
        return (
            # Fixed texts; values are bound.
            f"select id from rows left join marks using (id) where {' and '.join(terms)} order by {order}",  # noqa: S608
            values,
        )


class Rows:
    """The rows of results.

    Args:
        found: the results.
        folder: where the database may lie.
        observer: sees how far reading is.

    Attributes:
        labels: the classes.
        codes: numbers of the error codes that occur, as in `ErrorCode`.
        count: how many rows there are.
    """

    def __init__(self, found: Findings, folder: Path, observer: Observer) -> None:
        self.labels, self._several = found.reader.tally.labels, found.reader.tally.several
        self._others = found.other.labels if found.other is not None else ()
        self._lock = threading.Lock()  # a connection is for one thread at a time
        self._searches: OrderedDict[Query, Any] = OrderedDict()
        self._database = duckdb.connect(
            str(folder / "rows.duckdb"),
            config={"memory_limit": "1GB", "temp_directory": str(folder), "threads": "4"},
        )
        self._database.execute(
            "create table rows (id bigint, shard int, row int, uri varchar, label int, truth int, "
            "millionths int, error int, other int, changed boolean, has int[]);"
            "create table marks (id bigint primary key, given int[], marked boolean not null)"
        )
        observer.phase("sorting the rows")
        self.count = 0
        held: list[pa.Table] = []
        for table in _read(found):
            held.append(table)
            if sum(each.num_rows for each in held) >= _INSERTED_TOGETHER:
                self._insert(held)
                observer.rows_read(self.count, found.figures.images)
        self._insert(held)
        codes = self._database.execute(
            "select distinct error from rows where error >= 0 order by 1"
        )
        self.codes = [code for (code,) in codes.fetchall()]
        # From here on the database reads no other file, and nothing from the network.
        self._database.execute("set enable_external_access = false; set lock_configuration = true")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _insert(self, tables: list[pa.Table]) -> None:
        if tables:
            joined = pa.concat_tables(tables)
            numbers = pa.array(np.arange(self.count, self.count + joined.num_rows))
            joined = joined.add_column(0, "id", numbers)
            self._database.register("joined", joined)
            self._database.execute("insert into rows select * from joined")
            self._database.unregister("joined")
            self.count += joined.num_rows
            tables.clear()

    def search(self, query: Query, start: int, count: int) -> tuple[int, list[dict[str, Any]]]:
        """How many rows are found, and some of them as the page takes them."""
        with self._lock:
            numbers = self._searches.get(query)
            if numbers is None:
                numbers = self._database.execute(*query.sql()).fetchnumpy()["id"]
                self._searches[query] = numbers
                if len(self._searches) > _KEPT_SEARCHES:
                    self._searches.popitem(last=False)
            self._searches.move_to_end(query)
            return len(numbers), self._rows(numbers[start : start + count])

    def _rows(self, numbers: Any) -> list[dict[str, Any]]:
        wanted = pa.table({"id": numbers, "place": np.arange(len(numbers))})
        self._database.register("wanted", wanted)
        found = self._database.execute(
            "select id, shard, row, uri, label, truth, millionths, error, other, changed, "
            "has, given, coalesce(marked, false) as marked "
            "from wanted join rows using (id) left join marks using (id) order by place"
        )
        names = [column[0] for column in found.description or ()]
        shown = [self._shown(dict(zip(names, row, strict=True))) for row in found.fetchall()]
        self._database.unregister("wanted")
        return shown

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        other = row.pop("other")
        before = "rejected" if other == -1 else self._others[other] if other >= 0 else None
        place = f"{row.pop('shard')}-{row.pop('row')}"
        return row | {"before": before, "place": place, "picture": f"pictures/{place}"}

    def mark(self, number: int, given: list[int] | None, *, marked: bool) -> str:
        """Set a row's new labels (None for none) and mark; gives its URI.

        Raises:
            ValueError: there is no such row or label, or there are more of them than it may have.
        """
        if not 0 <= number < self.count or not (given is None or self._can_be(given)):
            raise ValueError(f"row {number}, labels {given}")
        with self._lock:
            self._database.execute("delete from marks where id = ?", [number])
            if given is not None or marked:
                values = [number, given, marked]
                self._database.execute("insert into marks values (?, ?::int[], ?)", values)
            return str(self._one("select uri from rows where id = ?", [number])[0])

    def _can_be(self, given: Any) -> bool:
        numbers = range(len(self.labels))
        listed = isinstance(given, list) and all(each in numbers for each in given)
        return listed and (self._several or len(given) == 1)

    def mark_all(self, labels: Mapping[str, str], marked: Sequence[str]) -> set[str]:
        """Set new labels by URI, and marks; gives the URIs that are not among the rows."""
        place = {label: number for number, label in enumerate(self.labels)}
        told = {
            uri: inputs.classes_of(label) if self._several and label else [label]
            for uri, label in labels.items()
        }
        known = {
            uri: [place[each] for each in those]
            for uri, those in told.items()
            if place.keys() >= {*those}
        }
        uris = sorted({*known, *marked})
        table = pa.table(
            {
                "uri": pa.array(uris, pa.string()),
                "given": pa.array([known.get(uri) for uri in uris], _NUMBERS),
                "marked": pa.array([uri in {*marked} for uri in uris], pa.bool_()),
            }
        )
        with self._lock:
            self._database.register("told", table)
            there = self._database.execute("select uri from told semi join rows using (uri)")
            found = {uri for (uri,) in there.fetchall()}
            self._database.execute(
                "insert into marks select id, given, marked from told join rows using (uri)"
            )
            self._database.unregister("told")
        return ({*labels} - {*known}) | ({*uris} - found)

    def marks(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """New labels as URI, text, label before; and the URIs of what is marked. As listed."""
        with self._lock:
            given = self._database.execute(
                "select uri, given, truth from marks join rows using (id) where given is not null "
                "order by id"
            ).fetchall()
            marked = self._database.execute(
                "select uri from marks join rows using (id) where marked order by id"
            ).fetchall()
        names = (*self.labels, "")  # the last one is that of -1
        labels = [
            (uri, inputs.joined([names[each] for each in new]), names[old])
            for uri, new, old in given
        ]
        return labels, [uri for (uri,) in marked]

    def _one(self, statement: str, values: list[Any]) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._database.execute(statement, values).fetchone() or ()
        return row


def _read(found: Findings) -> Iterator[pa.Table]:
    """The rows of each part file, as the table in the database has them."""
    reader, other = found.reader, found.other
    codes = [code.value for code in ErrorCode]
    if other is not None:
        # Numbers of the other's classes as those of these, -3 where these have none; then -2, -1.
        numbers = [_place(name, reader.tally.labels) for name in other.labels]
        renumbered = np.array([*numbers, -2, -1], np.int32)
    for shard, answers in zip(
        reader.shards,
        in_order(lambda shard: reader.answers(shard, ["uri"]), reader.shards, READ_THREADS),
        strict=True,
    ):
        if answers is None:
            continue
        count = answers.table.num_rows
        label = np.where(answers.good, answers.label, -1).astype(np.int32)
        uris = answers.table["uri"]
        before = np.full(count, -2, np.int32)
        changed = np.zeros(count, bool)
        if other is not None:
            before = other.numbers(uris).astype(np.int32)
            changed = (before != -2) & (renumbered[before] != label)
        yield pa.table(
            {
                "shard": np.full(count, shard, np.int32),
                "row": np.arange(count, dtype=np.int32),
                "uri": uris,
                "label": label,
                "truth": answers.truth,
                "millionths": millionths(answers.probability),
                "error": index(answers.table["error"], codes),
                "other": before,
                "changed": changed,
                "has": pa.nulls(count, _NUMBERS) if (has := reader.has(shard)) is None else has,
            }
        )


def _place(name: str, labels: Sequence[str]) -> int:
    return labels.index(name) if name in labels else -3
