"""The rows of the page's section Review: up to 100,000, compressed, for its script to search.

It holds all rows if there are no more than that; else the rows of shards from all over the plan, and
every row with a picture. Names are unchanged; the script spells out hidden characters when it shows them.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog.errors import ErrorCode
from catdog.reporting.part_reader import READ_THREADS, in_order, index

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from catdog.reporting.against import Other
    from catdog.reporting.candidates import Candidates, Place
    from catdog.reporting.part_reader import PartReader
    from catdog.reporting.thumbnails import Picture

MAX_ROWS = 100_000
MAX_BYTES = 4 << 20  # of the rows as they stand in the page, pictures not counted
_HALVINGS = 8  # by then nearly only the rows with pictures are left


@dataclass(frozen=True)
class Review:
    """What can be searched.

    Attributes:
        data: columns by name, as JSON compressed with zlib, in base64; on a server's page, what it
            knows about the rows before it requests them.
        rows: number of rows in `data`.
        of: number of rows in the results.
        pictures: number of rows with a picture in the page.
        several: whether an image may have several classes.
    """

    data: str | dict[str, Any]
    rows: int
    of: int
    pictures: int
    several: bool


@dataclass
class _Columns:
    """The columns as the script reads them; -1 stands for a missing number.

    `has` is empty if an image has one class only.
    """

    places: list[Place]
    uri: list[str]
    label: list[int]
    truth: list[int]
    millionths: list[int]
    error: list[int]
    has: list[list[int]]

    def half(self) -> _Columns:
        """Every second row."""
        return _Columns(**{name: values[::2] for name, values in vars(self).items()})


def review(
    reader: PartReader,
    pictured: Candidates,
    pictures: dict[Place, Picture],
    in_page: set[Place],
    other: Other | None,
) -> Review:
    """Rows for the page.

    Args:
        reader: of the results.
        pictured: the rows that have a picture.
        pictures: of their places.
        in_page: places of those that stand in the page already.
        other: what other results say of the same images.
    """
    columns = _read(reader)
    _add(reader, columns, pictured)
    codes = [code.value for code in ErrorCode]
    labels = list(reader.tally.labels)
    for halvings in range(_HALVINGS + 1):
        rows: dict[str, Any] = {
            "labels": labels,
            "errors": codes,
            "uri": columns.uri,
            "label": columns.label,
            "truth": columns.truth if reader.tally.truth else None,
            "millionths": columns.millionths,
            "error": columns.error,
            "has": columns.has if reader.tally.several else None,
            "other": other.numbers(pa.array(columns.uri)).tolist() if other is not None else None,
            "otherLabels": list(other.labels) if other is not None else None,
        }
        if halvings == _HALVINGS or len(_packed(rows)) <= MAX_BYTES:
            break
        columns = columns.half()  # names without a common part do not compress
        _add(reader, columns, pictured)
    found = {place: row for row, place in enumerate(columns.places)}
    rows["shown"] = {
        found[place]: f"{place[0]}-{place[1]}" for place in sorted(in_page & found.keys())
    }
    rows["pictures"] = {
        found[place]: picture.source
        for place, picture in sorted(pictures.items(), key=lambda pair: pair[0])
        if picture.source and place in found and place not in in_page
    }
    held = len(rows["shown"]) + len(rows["pictures"])
    tally = reader.tally
    return Review(_packed(rows), len(columns.uri), tally.images, held, tally.several)


def _packed(content: dict[str, Any]) -> str:
    text = json.dumps(content, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _read(reader: PartReader) -> _Columns:
    """All rows, or those of shards spread evenly over the plan."""
    shards = _spread(reader.shards, reader.plan.shard_images)
    columns = _Columns([], [], [], [], [], [], [])
    codes = [code.value for code in ErrorCode]
    for shard, answers in zip(
        shards,
        in_order(lambda shard: reader.answers(shard, ["uri"]), shards, READ_THREADS),
        strict=True,
    ):
        if answers is None:
            continue
        count = min(answers.table.num_rows, MAX_ROWS - len(columns.uri))
        columns.places += [(shard, row) for row in range(count)]
        columns.uri += answers.table["uri"].slice(0, count).to_pylist()
        columns.label += np.where(answers.good, answers.label, -1)[:count].tolist()
        columns.truth += answers.truth[:count].tolist()
        columns.millionths += millionths(answers.probability[:count]).tolist()
        columns.error += index(answers.table["error"], codes)[:count].tolist()
        if (has := reader.has(shard)) is not None:
            columns.has += has.slice(0, count).to_pylist()
    return columns


def _spread(shards: Sequence[int], images: Sequence[int]) -> list[int]:
    """As many evenly spread shards as have no more rows together than are shown."""
    total = sum(images[shard] for shard in shards)
    if total <= MAX_ROWS:
        return list(shards)
    count = max(1, len(shards) * MAX_ROWS // total)
    return [shards[at] for at in np.linspace(0, len(shards) - 1, count).astype(int).tolist()]


def _add(reader: PartReader, columns: _Columns, candidates: Candidates) -> None:
    """The candidates that are not there yet, at the end."""
    there = set(columns.places)
    missing: dict[Place, Any] = {}
    for candidate in candidates:
        place = int(candidate["shard"]), int(candidate["row"])
        if place not in there:
            missing[place] = candidate
    for shard in sorted({shard for shard, _ in missing}):
        uris, has = reader.uris(shard), reader.has(shard)
        for place in sorted(place for place in missing if place[0] == shard):
            columns.places.append(place)
            columns.uri.append(uris[place[1]].as_py())
            columns.label.append(int(missing[place]["label"]))
            columns.truth.append(int(missing[place]["truth"]))
            columns.millionths += millionths(missing[place]["probability"][None]).tolist()
            columns.error.append(-1)
            if has is not None:
                columns.has.append(has[place[1]].as_py())


def millionths(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """int32 (n,): probabilities as the page has them, rounded down."""
    whole: npt.NDArray[np.int32] = np.floor(probability.astype(np.float64) * 1e6).astype(np.int32)
    return whole
