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
    largest = min(max_shard_images, MAX_SHARD_IMAGES)
    token = secrets.token_hex(4)
    digest = hashlib.sha256()
    shard_images: list[int] = []
    streams = _Streams()
    images = 0
    writer: _PlanFile | None = None
    pending: list[pa.RecordBatch] = []
    pending_rows = 0

    def flush(*, all_rows: bool) -> None:
        nonlocal pending, pending_rows, writer, images
        table = pa.Table.from_batches(pending, PLAN_SCHEMA)
        start = 0
        while start < table.num_rows:
            size = min(_power_of_two(max(_MIN_SHARD_IMAGES, images // 16)), largest)
            if table.num_rows - start < size and not all_rows:
                break
            shard = table.slice(start, size)
            number, row_group = divmod(len(shard_images), _SHARDS_PER_FILE)
            if row_group == 0:
                if writer is not None:
                    writer.close()
                writer = _PlanFile(output, _file_name(token, number))
            assert writer is not None  # noqa: S101 - shard 0 opened it
            writer.write(shard)
            streams.add(shard)
            shard_images.append(shard.num_rows)
            images += shard.num_rows
            start += shard.num_rows
        rest = table.slice(start)
        pending, pending_rows = rest.to_batches(), rest.num_rows

    try:
        for batch in batches:
            _update(digest, batch)
            pending.append(batch)
            pending_rows += batch.num_rows
            if pending_rows >= largest:
                flush(all_rows=False)
            if progress is not None:
                progress(images + pending_rows)
        flush(all_rows=True)
        if writer is not None:
            writer.close()
    except BaseException:
        if writer is not None:
            writer.abort()
        raise
    plan = Plan(
        output, digest.hexdigest(), images, tuple(shard_images), token, streams.of_several_shards()
    )
    index = {
        "identifier": plan.identifier,
        "images": images,
        "shard_images": shard_images,
        "token": token,
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
