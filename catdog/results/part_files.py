"""The result table: its columns, its part files, which are their own ledger, and the final check.

A part file appears whole or not at all, under a name that follows from its plan and shard. So what
the folder holds is what is done: no second book can disagree with it after a crash, and a writer
that its driver lost, or that a second driver started, can only write the same rows again.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog import storage
from catdog.errors import CatdogError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from catdog.results.plans import Plan

UNCERTAIN = "uncertain"  # the label of an image whose best probability is below the wanted one
TIMING_KEY = "timing"  # of a part file's schema metadata
RUN_FILE = "_run.json"
SUMMARY_FILE = "_summary.json"

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("error", pa.string()),
        pa.field("error_detail", pa.string()),
        pa.field("model", pa.string(), nullable=False),
    ]
)
_LISTING_THREADS = 16


def build_rows(
    uris: pa.ChunkedArray,
    outcome: pa.Table,
    scores: NDArray[np.float32],
    *,
    labels: Sequence[str],
    min_probability: float,
    model: str,
) -> pa.Table:
    """The result rows of images.

    Args:
        uris: of the images.
        outcome: what became of each: `width` to `error_detail` of `SCHEMA`.
        scores: of every class, float32 (n, classes); what stands for a rejected image is ignored.
        labels: the classes in the order of the scores.
        min_probability: below it the label is `UNCERTAIN`.
        model: fingerprint.
    """
    rejected = outcome["error"].is_valid().to_numpy()
    best = scores.argmax(axis=1)
    probability = scores.max(axis=1, initial=0)
    names = np.array([*labels, UNCERTAIN], object)
    label = names[np.where(probability < min_probability, len(labels), best)]
    offsets = np.concatenate([[0], np.cumsum(np.where(rejected, 0, scores.shape[1]))])
    kept = pa.array(scores[~rejected].ravel())
    columns = {
        "uri": uris,
        "label": pa.array(label, pa.string(), mask=rejected),
        "probability": pa.array(probability, pa.float32(), mask=rejected),
        "scores": pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), kept, mask=pa.array(rejected)
        ),
        "model": pa.array([model] * len(rejected), pa.string()),
    }
    return pa.table(
        {
            name: columns.get(name, outcome[name] if name in outcome.column_names else None)
            for name in SCHEMA.names
        }
    ).cast(SCHEMA)


def replace_rows(rows: pa.Table, replaced: pa.ChunkedArray, new: pa.Table) -> pa.Table:
    """Result rows in which those that `replaced` marks give way to `new`, in order."""
    marks = replaced.to_numpy()
    take = np.where(marks, rows.num_rows + np.cumsum(marks) - 1, np.arange(rows.num_rows))
    return pa.concat_tables([rows.cast(SCHEMA), new.cast(SCHEMA)]).take(pa.array(take))


def part_name(plan_identifier: str, shard: int) -> str:
    """The name of the file that holds the rows of a shard."""
    return f"part-{shard:07d}-{plan_identifier[:12]}.parquet"


def write_part(
    plan: Plan,
    shard: int,
    rows: pa.Table,
    labels: Sequence[str],
    timing: Mapping[str, float] | None = None,
) -> None:
    """Write the rows of a shard, atomically, over a file of the same shard if there is one.

    Args:
        plan: the job's plan.
        shard: number of the shard.
        rows: one row for every entry of the shard, with the columns of `SCHEMA`.
        labels: the classes in the order of `scores`, for the file's schema metadata.
        timing: `started_at`, `ended_at` (Unix seconds) and seconds by stage (`read_s`, ...), for the
            schema metadata: a report over several runs shows them.
    """
    if rows.num_rows != plan.shard_images[shard]:
        raise CatdogError(
            f"shard {shard} gave {rows.num_rows} rows for {plan.shard_images[shard]} images"
        )
    metadata = {"labels": json.dumps(list(labels))}
    if timing is not None:
        metadata[TIMING_KEY] = json.dumps(dict(timing))
    schema = SCHEMA.with_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(rows.cast(schema), buffer, compression="zstd")
    storage.write_atomic(
        storage.join(plan.output, part_name(plan.identifier, shard)), buffer.getvalue()
    )


def labels_of(schema: pa.Schema) -> tuple[str, ...]:
    """The classes in the order of the column `scores`, from a result file's schema."""
    metadata = schema.metadata or {}
    return tuple(json.loads(metadata.get(b"labels", b"[]")))


@dataclass(frozen=True)
class PartCounts:
    """What one part file holds.

    Attributes:
        images: rows.
        labels: rows by label, rejected ones left out.
        errors: rows by reason, classified ones left out.
    """

    images: int
    labels: Counter[str]
    errors: Counter[str]


def count_parts(plan: Plan, names: Sequence[str] | None = None) -> dict[int, PartCounts]:
    """The finished shards of a plan and what their files hold.

    A file without a valid footer, or with another number of rows than its shard has, was never
    written: its shard is not among the finished ones.

    Args:
        plan: the job's plan.
        names: of the files in the results folder; listed where they are not given.
    """
    own = {part_name(plan.identifier, shard): shard for shard in range(plan.shards)}
    listed = storage.list_names(plan.output) if names is None else names
    shards = [own[name] for name in listed if name in own]
    with concurrent.futures.ThreadPoolExecutor(_LISTING_THREADS) as pool:
        counts = pool.map(lambda shard: _count_part(plan, shard), shards)
        return {
            shard: found
            for shard, found in zip(shards, counts, strict=True)
            if found is not None and found.images == plan.shard_images[shard]
        }


def _count_part(plan: Plan, shard: int) -> PartCounts | None:
    try:
        table = read_part(plan, shard, ["label", "error"])
    except (pa.ArrowInvalid, OSError):
        return None
    return count_rows(table)


def count_rows(table: pa.Table) -> PartCounts:
    """Count the rows of result rows by label and by reason."""

    def by_value(column: str) -> Counter[str]:
        pairs = pc.value_counts(table[column].drop_null())
        return Counter({pair["values"].as_py(): pair["counts"].as_py() for pair in pairs})

    return PartCounts(table.num_rows, by_value("label"), by_value("error"))


def foreign_parts(plan: Plan, names: Iterable[str]) -> list[str]:
    """Those names of Parquet files in the results folder that are no shard of this plan."""
    own = {part_name(plan.identifier, shard) for shard in range(plan.shards)}
    return [name for name in names if name.endswith(".parquet") and name not in own]


def has_part(plan: Plan, shard: int) -> bool:
    """Whether a shard has a whole file."""
    return _count_part(plan, shard) is not None


def read_part(plan: Plan, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a finished shard."""
    uri = storage.join(plan.output, part_name(plan.identifier, shard))
    with storage.open_input(uri) as file:
        return pq.read_table(file, columns=list(columns) if columns is not None else None)


def total(counts: Iterable[PartCounts]) -> PartCounts:
    """The sum of several files' counts."""
    images, labels, errors = 0, Counter[str](), Counter[str]()
    for part in counts:
        images += part.images
        labels += part.labels
        errors += part.errors
    return PartCounts(images, labels, errors)


def write_json(output: str, name: str, content: dict[str, Any]) -> None:
    """Write `_run.json` or `_summary.json`."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    storage.write_atomic(storage.join(output, name), text.encode("utf-8", "replace"))


def read_json(output: str, name: str) -> dict[str, Any] | None:
    """Read `_run.json` or `_summary.json`; None where there is none."""
    uri = storage.join(output, name)
    if not storage.exists(uri):
        return None
    try:
        content: dict[str, Any] = json.loads(storage.read_bytes(uri, 2**26))
    except ValueError as error:
        raise CatdogError(f"{uri} is damaged: {error}") from error
    return content
