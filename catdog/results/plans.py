"""The plan of a job on disk: every image that is to be classified, in shards.

    RESULTS/_plan/<token>-00000.parquet ...   the entries; one row group is one shard
    RESULTS/_plan/plan.json                    written last: without it there is no plan

Of two drivers that plan at the same moment one writes `plan.json`, and the other one takes its
plan; the token keeps their files apart.

A shard is the unit of work and of recovery: its result is one part file with a name that follows
from the plan, so that doing a shard twice writes the same file twice.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from catdog import storage
from catdog.errors import CatdogError
from catdog.inputs import PLAN_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PLAN_FOLDER = "_plan"
_INDEX_FILE = "plan.json"
_MIN_SHARD_IMAGES = 64
MAX_SHARD_IMAGES = 2048
_MAX_TOGETHER = 8  # shards of a stream that a worker takes at once: so many are lost with it
_SHARDS_PER_FILE = 256


@dataclass(frozen=True)
class Plan:
    """A finished plan.

    Attributes:
        output: URI of the results folder.
        identifier: SHA-256 (hex) over the entries; part of every result file's name.
        images: number of entries.
        shard_images: number of entries of each shard.
        token: the beginning of its files' names.
        streams: first shard and number of shards of each stream (a `.tar.gz`, which can only be
            read from its start) that more than one shard begins in.
    """

    output: str
    identifier: str
    images: int
    shard_images: tuple[int, ...]
    token: str
    streams: tuple[tuple[int, int], ...] = ()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.shard_images)

    def read_shard(self, shard: int) -> pa.Table:
        """The entries of a shard, with the columns of `PLAN_SCHEMA`."""
        number, row_group = divmod(shard, _SHARDS_PER_FILE)
        return _open_plan_file(self.output, _file_name(self.token, number)).read_row_group(
            row_group
        )

    def tasks(self, todo: Sequence[int], workers: int) -> list[list[int]]:
        """The shards of `todo` in that order, as what one worker takes at a time.

        Neighbours in a stream go together, where that leaves enough for all workers: each that
        takes a shard from the middle of a stream has to pass through everything before it.
        """
        stream_of = {
            shard: first for first, count in self.streams for shard in range(first, first + count)
        }
        streamed = sum(shard in stream_of for shard in todo)
        most = min(max(1, streamed // (4 * workers)), _MAX_TOGETHER)
        tasks: list[list[int]] = []
        for shard in todo:
            stream = stream_of.get(shard)
            before = stream_of.get(tasks[-1][-1]) if tasks else None
            if stream is not None and stream == before and len(tasks[-1]) < most:
                tasks[-1].append(shard)
            else:
                tasks.append([shard])
        return tasks


# A worker reads shards one after the other, mostly of the same file.
@functools.lru_cache(maxsize=8)
def _open_plan_file(output: str, name: str) -> pq.ParquetFile:
    uri = storage.join(output, PLAN_FOLDER, name)
    return pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri, 2**31)))


def _file_name(token: str, number: int) -> str:
    return f"{token}-{number:05d}.parquet"


def write(
    output: str,
    batches: Iterable[pa.RecordBatch],
    *,
    max_shard_images: int = MAX_SHARD_IMAGES,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Write the plan of these entries; memory does not grow with their number.

    Shards grow with the plan, from 64 to 2,048 images: small jobs spread over all workers, large
    ones have few files.

    Args:
        output: URI of the results folder.
        batches: entries with `PLAN_SCHEMA`.
        max_shard_images: where the pixels of 2,048 images would be too large for a block.
        progress: called with the number of entries so far.
    """
    shards = _Shards(output, secrets.token_hex(4), min(max_shard_images, MAX_SHARD_IMAGES))
    digest = hashlib.sha256()
    try:
        for batch in batches:
            _update(digest, batch)
            shards.add(batch)
            if progress is not None:
                progress(shards.images)
        shards.close()
    except BaseException:
        shards.abort()
        raise
    plan = Plan(
        output,
        digest.hexdigest(),
        shards.images,
        tuple(shards.sizes),
        shards.token,
        shards.streams.of_several_shards(),
    )
    index = {
        "identifier": plan.identifier,
        "images": plan.images,
        "shard_images": plan.shard_images,
        "token": plan.token,
        "streams": plan.streams,
    }
    uri = storage.join(output, PLAN_FOLDER, _INDEX_FILE)
    if storage.write_new(uri, (json.dumps(index) + "\n").encode()):
        return plan
    other = read(output)
    if other is None or other.identifier != plan.identifier:
        raise CatdogError(f"{output}: another driver planned other images at the same moment")
    return other


def _power_of_two(number: int) -> int:
    """The largest one that is not above `number`.

    Workers take large shards first; few different sizes keep the order of the images within each,
    so that a stream such as `.tar.gz` is passed through a few times and not once a shard.
    """
    return 1 << (number.bit_length() - 1)


def _update(digest: Any, batch: pa.RecordBatch) -> None:
    for column in ("uri", "offset", "length"):
        for buffer in batch.column(column).buffers():
            if buffer is not None:
                digest.update(buffer)


class _Streams:
    """Notes in which stream each shard begins."""

    def __init__(self) -> None:
        self._shards = 0
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
        """As `Plan.streams`."""
        return tuple(run for run in self._runs if run[1] > 1)


class _Shards:
    """Cuts entries into shards, which grow with the plan, and writes them as row groups.

    Args:
        output: URI of the results folder.
        token: of the plan's files.
        largest: number of entries of a shard.
    """

    def __init__(self, output: str, token: str, largest: int) -> None:
        self.token = token
        self.images = 0  # seen, those that wait for their shard among them
        self.sizes: list[int] = []
        self.streams = _Streams()
        self._output, self._largest = output, largest
        self._waiting: list[pa.RecordBatch] = []
        self._written = 0
        self._file: _PlanFile | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Take entries; they are written when there are enough for a shard of any size."""
        self._waiting.append(batch)
        self.images += batch.num_rows
        if self.images - self._written >= self._largest:
            self._cut(all_rows=False)

    def _cut(self, *, all_rows: bool) -> None:
        table = pa.Table.from_batches(self._waiting, PLAN_SCHEMA)
        start = 0
        while start < table.num_rows:
            size = min(_power_of_two(max(_MIN_SHARD_IMAGES, self._written // 16)), self._largest)
            if table.num_rows - start < size and not all_rows:
                break
            self._write(shard := table.slice(start, size))
            start += shard.num_rows
        self._waiting = table.slice(start).to_batches()

    def _write(self, shard: pa.Table) -> None:
        number, row_group = divmod(len(self.sizes), _SHARDS_PER_FILE)
        if row_group == 0 and self._file is not None:
            self._file.close()
            self._file = None
        if self._file is None:
            self._file = _PlanFile(self._output, _file_name(self.token, number))
        self._file.write(shard)
        self.streams.add(shard)
        self.sizes.append(shard.num_rows)
        self._written += shard.num_rows

    def close(self) -> None:
        """Write what is left."""
        self._cut(all_rows=True)
        if self._file is not None:
            self._file.close()

    def abort(self) -> None:
        """Leave no half file."""
        if self._file is not None:
            self._file.abort()


class _PlanFile:
    def __init__(self, output: str, name: str) -> None:
        self._context = storage.open_atomic(storage.join(output, PLAN_FOLDER, name))
        self._file = self._context.__enter__()
        self._writer = pq.ParquetWriter(self._file, PLAN_SCHEMA, compression="zstd")

    def write(self, shard: pa.Table) -> None:
        self._writer.write_table(shard, row_group_size=shard.num_rows)

    def close(self) -> None:
        self._writer.close()
        self._context.__exit__(None, None, None)

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._writer.close()
        error = InterruptedError("the plan was not finished")
        self._context.__exit__(type(error), error, None)


def read(output: str) -> Plan | None:
    """The finished plan in `output`, or None.

    Raises:
        CatdogError: the plan's index is damaged.
    """
    uri = storage.join(output, PLAN_FOLDER, _INDEX_FILE)
    if not storage.exists(uri):
        return None
    try:
        index = json.loads(storage.read_bytes(uri, 2**31))
        return Plan(
            output,
            str(index["identifier"]),
            int(index["images"]),
            tuple(index["shard_images"]),
            str(index["token"]),
            tuple((int(first), int(count)) for first, count in index.get("streams", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CatdogError(f"{uri} is damaged: {error!r}") from error
