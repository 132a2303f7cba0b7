"""A next generation of a plan: its entries, cut into shards and written; then its index file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from catdog.inputs import KEPT, PLAN_SCHEMA, Skips
from catdog.results.buckets import Repeats
from catdog.results.digests import digest
from catdog.results.plans import (
    DIGESTS_KEY,
    ENTRIES_SCHEMA,
    PLAN_FOLDER,
    SHARDS_PER_FILE,
    Generation,
    file_name,
    index_name,
    open_plan_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from catdog.results.folder import Folder
    from catdog.results.plans import Plan

_IDENTITY = ("uri", "offset", "length", "stamp")  # of an entry, besides its place in the plan
_MIN_SHARD_IMAGES = 64
MAX_SHARD_IMAGES = 2048


@dataclass(frozen=True)
class Draft:
    """A generation whose entries are written, but which no index file names yet."""

    folder: Folder
    generation: Generation

    def commit(self, job: str) -> bool:
        """Make it the next generation of a job. False if another driver was first."""
        generation = dataclasses.replace(self.generation, job=job)
        content = json.dumps(dataclasses.asdict(generation)) + "\n"
        if self.folder.create(index_name(generation.number), content.encode()):
            return True
        self.discard()
        return False

    def discard(self) -> None:
        """Delete its files."""
        _discard(self.folder, self.generation.token, len(self.generation.images))


def _discard(folder: Folder, token: str, groups: int) -> None:
    for number in range(-(-groups // SHARDS_PER_FILE)):
        folder.discard(f"{PLAN_FOLDER}/{file_name(token, number)}")


def draft(
    folder: Folder,
    batches: Iterable[pa.RecordBatch],
    *,
    before: Plan | None = None,
    revised: Iterable[tuple[int, pa.Table]] = (),
    named: Sequence[str] = (),
    planned_at: str = "",
    counts: Mapping[str, int] | None = None,
    skips: Skips | None = None,
    max_shard_images: int = MAX_SHARD_IMAGES,
    progress: Callable[[int], None] | None = None,
) -> Draft:
    """Write the entries of a next generation; memory does not grow with their number.

    Shards grow with the plan, from 64 to 2,048 images: small jobs spread over all workers, large
    ones have few files.

    Args:
        folder: of the results.
        batches: entries with `PLAN_SCHEMA`. In a first generation, the first of several entries with the
            same URI counts; in later ones all are new and have different URIs.
        before: the plan that this adds to.
        revised: shards of it and their entries with `ENTRIES_SCHEMA`.
        named: the inputs, as the command named them.
        planned_at: UTC.
        counts: images by what the comparison found.
        skips: counts what was not planned; complete after the last batch.
        max_shard_images: a lower limit, if the pixels of 2,048 images would exceed a block.
        progress: called with the number of entries so far.
    """
    skips = skips if skips is not None else Skips()
    first = before.shards if before is not None else 0
    largest = min(max_shard_images, MAX_SHARD_IMAGES)
    shards = _Shards(folder, first=first, largest=largest)
    again: list[int] = []
    try:
        with contextlib.closing(Repeats()) as repeats:
            for batch in batches:
                shards.add(batch)
                # With columns that the user keeps, each row of the user's table counts.
                if before is None and KEPT not in batch.schema.names:
                    repeats.add(batch.column("uri"))
                if progress is not None:
                    progress(shards.images)
            shards.cut_rest()
            if repeated := repeats.find():
                skips.add("named more than once", repeated)
                shards = _without(repeats, shards, _Shards(folder, first=first, largest=largest))
        for shard, entries in revised:
            shards.write(entries)
            again.append(shard)
        shards.close()
    except BaseException:
        shards.abort()
        raise
    generation = Generation(
        number=before.generation + 1 if before is not None else 1,
        job="",
        identifier=shards.identity.hexdigest(),
        token=shards.token,
        inputs=tuple(named),
        planned_at=planned_at,
        first_shard=shards.first,
        images=tuple(shards.sizes),
        revised=tuple(again),
        streams=shards.streams.of_several_shards(),
        counts=dict(counts or {}),
        passed_over=skips.counts(),
    )
    return Draft(folder, generation)


def _without(repeats: Repeats, written: _Shards, anew: _Shards) -> _Shards:
    """The written entries without repeated images, in files with other names."""
    start = 0
    try:
        for entries in written.tables():
            end = start + entries.num_rows
            new = pa.array(repeats.first(start, end))
            for batch in entries.drop_columns(["fresh"]).filter(new).to_batches():
                anew.add(batch)
            start = end
        anew.cut_rest()
    except BaseException:
        anew.abort()
        raise
    written.abort()
    return anew


def _power_of_two(number: int) -> int:
    """The largest one that is not above `number`.

    Workers take large shards first. With few different sizes, images keep their order within each size,
    so a stream such as `.tar.gz` is read through a few times and not once for each shard.
    """
    return 1 << (number.bit_length() - 1)


class _Streams:
    """Records in which stream each shard begins, from shard number `first` on."""

    def __init__(self, first: int) -> None:
        self._shards = first
        self._current: str | None = None
        self._runs: list[tuple[int, int]] = []

    def add(self, shard: pa.Table) -> None:
        """The next shard."""
        streamed = shard["codec"][0].as_py() == "tar.gz"
        container = shard["container"][0].as_py() if streamed else None
        if container is not None and container == self._current:
            first, count = self._runs[-1]
            self._runs[-1] = (first, count + 1)
        elif container is not None:
            self._runs.append((self._shards, 1))
        self._current = container
        self._shards += 1

    def of_several_shards(self) -> tuple[tuple[int, int], ...]:
        """As `Generation.streams`."""
        return tuple(run for run in self._runs if run[1] > 1)


class _Shards:
    """Cuts entries into shards, which grow with the plan, and writes them as row groups.

    Args:
        folder: of the results.
        first: number of the first shard.
        largest: number of entries of a shard.
    """

    def __init__(self, folder: Folder, *, first: int, largest: int) -> None:
        self.token, self.first = secrets.token_hex(4), first
        self.images = 0  # seen, those that wait for their shard among them
        self.sizes: list[int] = []
        self.streams = _Streams(first)
        self.identity = hashlib.sha256()
        self._folder, self._largest = folder, largest
        self._waiting: list[pa.RecordBatch] = []
        self._cut_images = 0
        self._file: _PlanFile | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Take new entries; they are written once they fill a shard of any size."""
        self._waiting.append(batch)
        self.images += batch.num_rows
        if self.images - self._cut_images >= self._largest:
            self._cut(all_rows=False)

    def cut_rest(self) -> None:
        """Write the waiting entries: no more will come."""
        self._cut(all_rows=True)

    def _cut(self, *, all_rows: bool) -> None:
        schema = self._waiting[0].schema if self._waiting else PLAN_SCHEMA
        table = pa.Table.from_batches(self._waiting, schema)
        start = 0
        while start < table.num_rows:
            size = min(_power_of_two(max(_MIN_SHARD_IMAGES, self._cut_images // 16)), self._largest)
            if table.num_rows - start < size and not all_rows:
                break
            shard = table.slice(start, size)
            fresh = pa.array([True] * shard.num_rows)
            self.write(shard.append_column(ENTRIES_SCHEMA.field("fresh"), fresh))
            self.streams.add(shard)
            self._cut_images += shard.num_rows
            start += shard.num_rows
        self._waiting = table.slice(start).to_batches()

    def write(self, shard: pa.Table) -> None:
        """Write a shard's entries, with `ENTRIES_SCHEMA`, as the next row group."""
        number, row_group = divmod(len(self.sizes), SHARDS_PER_FILE)
        if row_group == 0 and self._file is not None:
            self._file.close()
            self._file = None
        if self._file is None:
            self._file = _PlanFile(self._folder, file_name(self.token, number), shard.schema)
        self._file.write(shard)
        self.identity.update(digest(shard, _IDENTITY).encode())
        self.sizes.append(shard.num_rows)

    def close(self) -> None:
        """Finish the last file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def tables(self) -> Iterator[pa.Table]:
        """What was written, shard by shard; nothing is written afterwards."""
        self.close()
        for group in range(len(self.sizes)):
            number, row_group = divmod(group, SHARDS_PER_FILE)
            name = file_name(self.token, number)
            yield open_plan_file(self._folder, name).read_row_group(row_group, use_threads=False)

    def abort(self) -> None:
        """Delete everything it wrote."""
        if self._file is not None:
            self._file.abort()
            self._file = None
        _discard(self._folder, self.token, len(self.sizes))


class _PlanFile:
    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        self._open = contextlib.ExitStack()
        file = self._open.enter_context(folder.write(f"{PLAN_FOLDER}/{name}"))
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._digests: list[str] = []

    def write(self, shard: pa.Table) -> None:
        # A table without rows has no row group of its own unless it is asked for.
        self._writer.write_table(shard, row_group_size=max(1, shard.num_rows))
        self._digests.append(digest(shard, ["uri"]))

    def close(self) -> None:
        self._writer.add_key_value_metadata({DIGESTS_KEY: json.dumps(self._digests)})
        self._writer.close()
        self._open.close()

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._writer.close()
        # An error is what has `Folder.write` discard the file.
        with contextlib.suppress(InterruptedError), self._open:
            raise InterruptedError("the plan was not finished")
