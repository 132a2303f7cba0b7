"""The plan of a job on disk: every image that is to be classified, in shards.

    RESULTS/_plan/0001.json                    a generation, written last: without it there is none
    RESULTS/_plan/<token>-00000.parquet ...    its entries; one row group is one shard

The first generation holds what the first start found. Each later one holds new images as further
shards. It also holds every earlier shard that needs work again (a changed source, images to retry),
with all its entries; the mark `fresh` says which of them to classify. A generation is planned when the
one before is finished, and never changes.

A shard is the unit of work and of recovery: its result is one part file, whose name follows from the
plan. If two drivers plan at the same moment, one creates the generation's file and the other takes
that plan; the token keeps their files of entries apart.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import json
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from catdog.errors import CatdogError, UserInputError
from catdog.inputs import KEPT, PLAN_SCHEMA
from catdog.results import damage
from catdog.results.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAN_FOLDER = "_plan"
ENTRIES_SCHEMA = PLAN_SCHEMA.append(pa.field("fresh", pa.bool_(), nullable=False))
"""A plan's columns: `fresh` tells whether this generation is to classify the entry."""

DIGESTS_KEY = "digests"  # of a plan file's metadata: of the URIs of each row group
_OLD_INDEX = "plan.json"
_MAX_TOGETHER = 8  # shards of a stream that a worker takes at once; a lost worker loses as many
_MAX_TASKS = 500  # Ray Data's driver keeps some 40 kB of each until the end
MOST_ROWS = 1 << 20
"""Images of a shard, whatever a file claims; Arrow takes memory for claims."""
SHARDS_PER_FILE = 256


@dataclass(frozen=True)
class Generation:
    """What one run found to do.

    Attributes:
        number: 1 for the first start's.
        job: identity of the job.
        identifier: SHA-256 (hex) over the entries.
        token: the beginning of its files' names.
        inputs: what the command named.
        planned_at: UTC.
        first_shard: number of its first new shard.
        images: entries of each of its row groups: the new shards, then the revised ones.
        revised: numbers of the earlier shards that it does again.
        streams: first shard and number of shards of each stream (a `.tar.gz`, which can only be
            read from its start) that more than one shard begins in.
        counts: images by what the comparison found: `known` before, `new`, ...
        passed_over: what its listing did not plan, by kind.
    """

    number: int
    job: str
    identifier: str
    token: str
    inputs: tuple[str, ...]
    planned_at: str
    first_shard: int
    images: tuple[int, ...]
    revised: tuple[int, ...] = ()
    streams: tuple[tuple[int, int], ...] = ()
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def new_shards(self) -> int:
        """Number of shards that no earlier generation has."""
        return len(self.images) - len(self.revised)

    def file_of(self, group: int) -> tuple[str, int]:
        """The file that holds a row group, and the group's number there."""
        number, row_group = divmod(group, SHARDS_PER_FILE)
        return file_name(self.token, number), row_group


@dataclass(frozen=True)
class Plan:
    """All generations of a job, the latest word on each shard.

    Attributes:
        folder: of the results.
        generations: at least one.
    """

    folder: Folder
    generations: tuple[Generation, ...]

    @property
    def output(self) -> str:
        """URI of the results folder."""
        return self.folder.uri

    @property
    def generation(self) -> int:
        """Number of the latest generation."""
        return self.generations[-1].number

    @property
    def identifier(self) -> str:
        """SHA-256 (hex) over the latest generation's entries."""
        return self.generations[-1].identifier

    @property
    def job(self) -> str:
        """Identity of the job, the same in all generations."""
        return self.generations[0].job

    @cached_property
    def shards(self) -> int:
        """Number of shards."""
        return sum(generation.new_shards for generation in self.generations)

    @cached_property
    def shard_images(self) -> tuple[int, ...]:
        """Number of entries of each shard."""
        sizes: list[int] = []
        for generation in self.generations:
            sizes += generation.images[: generation.new_shards]
            revised = generation.images[generation.new_shards :]
            for shard, images in zip(generation.revised, revised, strict=True):
                sizes[shard] = images
        return tuple(sizes)

    @cached_property
    def images(self) -> int:
        """Number of entries."""
        return sum(self.shard_images)

    @cached_property
    def _revised(self) -> dict[int, list[tuple[int, int]]]:
        """The generations and row groups of the shards that a later generation does again."""
        found: dict[int, list[tuple[int, int]]] = {}
        for generation in self.generations:
            for at, shard in enumerate(generation.revised):
                place = (generation.number, generation.new_shards + at)
                found.setdefault(shard, []).append(place)
        return found

    def origin(self, shard: int) -> int:
        """Number of the generation that a shard is new in."""
        starts = [generation.first_shard for generation in self.generations]
        return bisect.bisect_right(starts, shard)

    def revision(self, shard: int) -> int:
        """Number of the latest generation that a shard is to be done in."""
        return self._place(shard)[0]

    def revision_before(self, shard: int) -> int:
        """Number of the generation before that, 0 where there is none."""
        places = self._revised.get(shard, [])
        if len(places) > 1:
            return places[-2][0]
        return self.origin(shard) if places else 0

    def _place(self, shard: int) -> tuple[int, int]:
        """The latest generation with a shard, and the row group there."""
        if shard in self._revised:
            return self._revised[shard][-1]
        number = self.origin(shard)
        return number, shard - self.generations[number - 1].first_shard

    def part_name(self, shard: int) -> str:
        """The name of the file that holds the rows of a shard; no other job uses it."""
        return f"part-{shard:07d}-{self._part_suffixes[self.origin(shard) - 1]}.parquet"

    @cached_property
    def _part_suffixes(self) -> list[str]:
        return [
            hashlib.sha256(f"{each.job} {each.identifier}".encode()).hexdigest()[:12]
            for each in self.generations
        ]

    def read_shard(self, shard: int) -> pa.Table:
        """The entries of a shard, with the columns of `ENTRIES_SCHEMA`, and `KEPT` if there is any."""
        number, group = self._place(shard)
        generation = self.generations[number - 1]
        name, row_group = generation.file_of(group)
        file = open_plan_file(self.folder, name)
        with damage.named(f"{self.output}/{PLAN_FOLDER}/{name}"):
            images = generation.images[group]
            claimed = file.metadata.row_group(row_group).num_rows  # Arrow takes memory for those
            if claimed != images:
                raise ValueError("its entries are not those of the plan")
            with _READING:
                entries = file.read_row_group(row_group, use_threads=False)
            kept = entries.schema.get_field_index(KEPT)  # the user's own columns
            schema = entries.schema if kept < 0 else entries.schema.remove(kept)
            if schema != ENTRIES_SCHEMA or entries.num_rows != images:
                raise ValueError("its entries are not those of the plan")
        return entries

    def uris_digest(self, shard: int) -> str:
        """`digest` of a shard's URIs."""
        number, group = self._place(shard)
        name, row_group = self.generations[number - 1].file_of(group)
        with damage.named(f"{self.output}/{PLAN_FOLDER}/{name}"):
            return _digests(self.folder, name)[row_group]

    def tasks(self, todo: Sequence[int], workers: int) -> list[list[int]]:
        """The shards of `todo` in that order, grouped into what one worker takes at a time.

        Neighbours in a stream form a group if that leaves enough groups for all workers: a worker that
        takes a shard from the middle of a stream has to read everything before it. Very many shards
        are grouped, too, since the memory of Ray Data's driver grows with the number of tasks. Groups
        are smaller towards the end, so that all workers end at about the same time.
        """
        stream_of = {
            shard: first
            for generation in self.generations
            for first, count in generation.streams
            for shard in range(first, first + count)
        }
        streamed = sum(shard in stream_of for shard in todo)
        most = min(max(1, streamed // (4 * workers)), _MAX_TOGETHER)
        largest = -(-len(todo) // _MAX_TASKS)
        tasks: list[list[int]] = []
        room = 0  # of the last task
        for at, shard in enumerate(todo):
            stream = stream_of.get(shard)
            before = stream_of.get(tasks[-1][-1]) if tasks else None
            size = len(tasks[-1]) if tasks else 0
            if size < room or (stream is not None and stream == before and size < most):
                tasks[-1].append(shard)
            else:
                tasks.append([shard])
                room = min(largest, (len(todo) - at) // (2 * workers))
        return tasks


_READING = threading.Lock()  # a file's reader is for one thread at a time


# A worker reads shards one after the other, mostly of the same file.
@functools.lru_cache(maxsize=8)
def open_plan_file(folder: Folder, name: str) -> pq.ParquetFile:
    """A file of entries, with all its bytes."""
    content = folder.read(f"{PLAN_FOLDER}/{name}")
    if content is None:
        raise _gone(folder, name)
    with damage.named(f"{folder.uri}/{PLAN_FOLDER}/{name}"):
        return pq.ParquetFile(pa.BufferReader(content[0]))


# The driver goes through all shards in their order.
@functools.lru_cache(maxsize=8)
def _digests(folder: Folder, name: str) -> list[str]:
    try:
        with folder.open(f"{PLAN_FOLDER}/{name}") as file:
            metadata = pq.read_metadata(file).metadata
    except FileNotFoundError:
        raise _gone(folder, name) from None
    found: list[str] = json.loads(metadata[DIGESTS_KEY.encode()])
    return found


def _gone(folder: Folder, name: str) -> CatdogError:
    return CatdogError(f"{folder.uri}/{PLAN_FOLDER}/{name} is gone: the plan is incomplete")


def file_name(token: str, number: int) -> str:
    """The name of a generation's file of entries."""
    return f"{token}-{number:05d}.parquet"


def index_name(generation: int) -> str:
    """The name of a generation's index file."""
    return f"{PLAN_FOLDER}/{generation:04d}.json"


# --------------------------------------------------------------------------------------------
# Reading


def read(folder: Folder | str) -> Plan | None:
    """The plan in a folder with all its generations; None if there is none.

    Raises:
        UserInputError: it is of another version of catdog.
        CatdogError: it is damaged.
    """
    if isinstance(folder, str):
        folder = Folder(folder)
    names = set(folder.names(PLAN_FOLDER))
    generations: list[Generation] = []
    while index_name(len(generations) + 1).rpartition("/")[2] in names:
        generations.append(_read_generation(folder, generations))
    if not generations:
        if _OLD_INDEX in names:
            raise UserInputError(
                f"{folder.uri}: an earlier version of catdog made these results; "
                "name another folder"
            )
        return None
    if len({generation.job for generation in generations}) > 1:
        raise CatdogError(f"{folder.uri}: its plan belongs to two jobs")
    return Plan(folder, tuple(generations))


def _read_generation(folder: Folder, before: Sequence[Generation]) -> Generation:
    number = len(before) + 1
    name = index_name(number)
    content = folder.read(name)
    with damage.named(f"{folder.uri}/{name}"):
        fields: dict[str, Any] = json.loads(content[0] if content is not None else b"")
        for name_of in ("inputs", "images", "revised"):
            fields[name_of] = tuple(fields[name_of])
        fields["streams"] = tuple((int(first), int(count)) for first, count in fields["streams"])
        generation = Generation(**fields)
        _check(generation, number, sum(each.new_shards for each in before))
        return generation


def _check(generation: Generation, number: int, shards: int) -> None:
    """Raise ValueError or TypeError if the numbers do not fit each other.

    Args:
        generation: as it was read.
        number: the one that it must have.
        shards: of the generations before.
    """
    numbers = (*generation.images, *generation.revised, *generation.counts.values())
    if not all(type(each) is int and 0 <= each < 1 << 63 for each in numbers):
        raise ValueError("a number is none")
    if max(generation.images, default=0) > MOST_ROWS:
        raise ValueError("a shard has too many images")
    texts = (generation.job, generation.identifier, *generation.inputs, generation.planned_at)
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("a text is none")
    "".join(texts).encode()  # raises where one cannot be written anywhere
    if generation.number != number or generation.first_shard != shards:
        raise ValueError("it does not follow the generation before")
    revised = generation.revised
    if len(set(revised)) < len(revised) or max(revised, default=-1) >= shards:
        raise ValueError("it does shards again that are none")
    if generation.new_shards < 0 or not re.fullmatch(r"[0-9a-f]{1,64}", generation.token):
        raise ValueError("its shards or their files are none")
