"""The difference between a plan and a new listing: images that are new, changed or gone.

Two images are the same if they have the same URI. An image is unchanged if both stamps of its source
are the same, or one is unknown. Images are compared by 128-bit hashes, with a new key in each process.
The hashes lie in buckets that fit the memory, in a temporary folder if they are many, so memory grows
little with the plan and the listing (docs/scale.md).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog import inputs, scratch
from catdog.inputs import KEPT, PLAN_SCHEMA
from catdog.results import buckets
from catdog.results.buckets import Buckets
from catdog.results.plans import ENTRIES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from catdog.results.plans import Plan

_RANGE = buckets.RANGE
_MEMORY_ROWS = 100_000  # of entries, likewise

# An image: two hashes of its URI, one of its stamp (0: unknown), and its place: in the listing, or
# minus one minus that in the plan, so that what is known comes first.
_KEY = np.dtype([("a", "<u8"), ("b", "<u8"), ("stamp", "<u8"), ("at", "<i8")])
# What is to be done with a listed entry; `known` is the place in the plan, -1 for a new one.
_WANTED = np.dtype([("at", "<i8"), ("known", "<i8")])
_PLACE = np.dtype([("at", "<i8")])
_KNOWN = pa.field("known", pa.int64())


@dataclass(frozen=True)
class Counts:
    """Images by what has happened to them since the plan was made.

    Attributes:
        known: in the plan.
        new: listed, and not in the plan.
        changed: listed, but the source is another one now.
        gone: in the plan, and not listed.
        repeated: listed more than once.
    """

    known: int
    new: int
    changed: int
    gone: int
    repeated: int = 0


class Changes:
    """A listing compared with a plan. Close it to delete its files.

    Args:
        plan: what is known.
        listed: entries with `PLAN_SCHEMA`; None to assume that nothing has changed.
    """

    def __init__(self, plan: Plan, listed: Iterable[pa.RecordBatch] | None) -> None:
        self._plan = plan
        self._end = contextlib.ExitStack()
        folder = self._end.enter_context(scratch.private_folder())
        schema = plan.read_shard(0).drop_columns(["fresh"]).schema if plan.shards else PLAN_SCHEMA
        self._each_counts = KEPT in schema.names
        self._listing = _Entries(folder / "listing", schema)
        self._changed = _Entries(folder / "changed", schema.append(_KNOWN))
        self._wanted = Buckets(folder / "wanted", _WANTED)
        self._gone = Buckets(folder / "gone", _PLACE)
        self._starts = np.concatenate([[0], np.cumsum(plan.shard_images, dtype=np.int64)])
        keys = Buckets(folder / "keys", _KEY)
        try:
            if listed is not None:
                self._add_keys(keys, listed)
            self.counts = self._compare(keys)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete its files."""
        self._end.close()

    def _add_keys(self, keys: Buckets, listed: Iterable[pa.RecordBatch]) -> None:
        for shard in range(self._plan.shards):
            entries = self._plan.read_shard(shard)
            _add(keys, entries, -1 - self._starts[shard] - np.arange(entries.num_rows))
        at = 0
        for batch in listed:
            self._listing.add(pa.Table.from_batches([batch]))
            _add(keys, batch, at + np.arange(batch.num_rows))
            at += batch.num_rows

    def _compare(self, keys: Buckets) -> Counts:
        new = changed = gone = repeated = 0
        for number in keys.numbers():
            found = keys.take(number)
            known = found["at"] < 0
            # What is known comes first; each side in its order.
            place = np.where(known, -1 - found["at"], found["at"])
            order = np.lexsort((place, ~known, found["b"], found["a"]))
            found, known = found[order], known[order]
            other = (found["a"][1:] != found["a"][:-1]) | (found["b"][1:] != found["b"][:-1])
            starts = np.flatnonzero(np.r_[True, other])
            group = np.cumsum(np.r_[True, other]) - 1
            of_known = np.add.reduceat(known.astype(np.int64), starts)[group]
            sizes = np.diff(np.r_[starts, len(found)])[group]
            rank = np.arange(len(found)) - starts[group] - np.where(known, 0, of_known)
            counts = ~known
            if not self._each_counts:
                # An image that is listed several times counts where it is first.
                repeated += int((~known & (rank > 0)).sum())
                counts = ~known & (rank == 0)
            is_new = rank >= of_known
            before = found[starts[group] + np.where(is_new, 0, rank)]
            is_changed = (
                counts
                & ~is_new
                & (found["stamp"] != before["stamp"])
                & (found["stamp"] != 0)
                & (before["stamp"] != 0)
            )
            is_new &= counts
            is_wanted = is_new | is_changed
            wanted = np.empty(int(is_wanted.sum()), _WANTED)
            wanted["at"] = found["at"][is_wanted]
            wanted["known"] = np.where(is_new, -1, -1 - before["at"])[is_wanted]
            self._wanted.add(wanted["at"] // _RANGE, wanted)
            is_gone = known & (rank >= sizes - of_known)
            missing = np.empty(int(is_gone.sum()), _PLACE)
            missing["at"] = -1 - found["at"][is_gone]
            self._gone.add(missing["at"] // _RANGE, missing)
            new += int(is_new.sum())
            changed += int(is_changed.sum())
            gone += len(missing)
        return Counts(self._plan.images, new, changed, gone, repeated)

    def new_entries(self) -> Iterator[pa.RecordBatch]:
        """The new entries, in the order of the listing. Read it to its end before `revised`."""
        at = 0
        wanted = np.empty(0, _WANTED)
        read = -1
        for table in self._listing.tables():
            while read < (at + table.num_rows - 1) // _RANGE:
                read += 1
                wanted = np.concatenate([wanted[wanted["at"] >= at], self._wanted.take(read)])
            here = np.sort(wanted[wanted["at"] < at + table.num_rows], order="at")
            here = here[here["at"] >= at]
            rows = here["at"] - at
            is_new = here["known"] < 0
            if is_new.any():
                yield from table.take(pa.array(rows[is_new])).combine_chunks().to_batches()
            if not is_new.all():
                changed = table.take(pa.array(rows[~is_new]))
                self._changed.add(changed.append_column(_KNOWN, pa.array(here["known"][~is_new])))
            at += table.num_rows

    def revised(
        self, rejected: Iterable[tuple[int, NDArray[np.bool_]]], *, drop_gone: bool
    ) -> Iterator[tuple[int, pa.Table]]:
        """The shards of the plan that need work, each with all its entries.

        Args:
            rejected: shards, ascending, and which of their entries are to be tried again.
            drop_gone: leave out what is gone.
        """
        again = iter(rejected)
        retried = next(again, None)
        for start in range(0, int(self._starts[-1]), _RANGE):
            changed = self._changed.between(start, start + _RANGE)
            places = changed["known"].to_numpy()
            gone = self._gone.take(start // _RANGE)["at"] if drop_gone else places[:0]
            touched = set((np.searchsorted(self._starts, places, "right") - 1).tolist())
            touched |= set((np.searchsorted(self._starts, gone, "right") - 1).tolist())
            last = int(np.searchsorted(self._starts, start + _RANGE, "left"))
            waiting = sorted(touched)
            while waiting or (retried is not None and retried[0] < last):
                shard = min([*waiting[:1], *([retried[0]] if retried is not None else [])])
                marks = None
                if retried is not None and retried[0] == shard:
                    marks, retried = retried[1], next(again, None)
                if waiting and waiting[0] == shard:
                    waiting.pop(0)
                yield shard, self._revise(shard, changed, gone, marks)

    def _revise(
        self,
        shard: int,
        changed: pa.Table,
        gone: NDArray[np.int64],
        retried: NDArray[np.bool_] | None,
    ) -> pa.Table:
        first, end = int(self._starts[shard]), int(self._starts[shard + 1])
        entries = self._plan.read_shard(shard).drop_columns(["fresh"])
        fresh = np.zeros(entries.num_rows, np.bool_) if retried is None else retried.copy()
        take = np.arange(entries.num_rows)
        places = changed["known"].to_numpy()
        here = (places >= first) & (places < end)
        replaced = places[here] - first
        take[replaced] = entries.num_rows + np.arange(len(replaced))
        fresh[replaced] = True
        others = changed.filter(pa.array(here)).select(entries.column_names)
        stays = np.ones(entries.num_rows, np.bool_)
        stays[gone[(gone >= first) & (gone < end)] - first] = False
        table = pa.concat_tables([entries, others.cast(entries.schema)]).take(pa.array(take[stays]))
        return table.append_column(ENTRIES_SCHEMA.field("fresh"), pa.array(fresh[stays]))


def _add(keys: Buckets, entries: pa.Table | pa.RecordBatch, at: NDArray[np.int64]) -> None:
    uris = entries.column("uri")
    found = np.empty(len(uris), _KEY)
    found["a"], found["b"] = inputs.hashes(uris).T
    found["stamp"] = _stamp_hashes(entries)
    found["at"] = at
    keys.add(buckets.of_hashes(found["a"]), found)


def _stamp_hashes(entries: pa.Table | pa.RecordBatch) -> NDArray[np.uint64]:
    stamps = entries.column("stamp")
    if KEPT in entries.schema.names:
        pairs = zip(stamps.to_pylist(), entries.column(KEPT).to_pylist(), strict=True)
        both = (hash(repr(pair)) | 1 for pair in pairs)
        return np.fromiter(both, np.int64, len(stamps)).view(np.uint64)
    if stamps.null_count == len(stamps):
        return np.zeros(len(stamps), np.uint64)
    given = (0 if stamp is None else hash(stamp) | 1 for stamp in stamps.to_pylist())
    return np.fromiter(given, np.int64, len(stamps)).view(np.uint64)


class _Entries:
    """Tables in the order of arrival; many go to a file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._held: list[pa.Table] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Keep a table."""
        self._held.append(table)
        self._rows += table.num_rows
        if self._writer is None and self._rows > _MEMORY_ROWS:
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        if self._writer is not None:
            for each in self._held:
                self._writer.write_table(each)
            self._held.clear()

    def _finished(self) -> bool:
        """Whether they are in a file, which is complete from now on."""
        if self._writer is not None:
            self._writer.close()
        return self._writer is not None

    def tables(self) -> Iterator[pa.Table]:
        """All tables."""
        if not self._finished():
            yield from self._held
            return
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)

    def between(self, start: int, end: int) -> pa.Table:
        """The rows whose column `known` is from `start` to below `end`."""
        if self._finished():
            known = pc.field("known")
            return pq.read_table(self._path, filters=(known >= start) & (known < end))
        table = pa.concat_tables([self._schema.empty_table(), *self._held])
        known = table["known"]
        return table.filter(pc.and_(pc.greater_equal(known, start), pc.less(known, end)))
