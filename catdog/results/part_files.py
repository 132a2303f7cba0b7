"""The result table: its columns, and its part files, which are their own ledger.

A part file appears whole or not at all, under a name that follows from its job, plan and shard. So
the files in the folder are the finished work, and no second book can disagree with them after a
crash. A file is created if it is absent, and replaced only if it is still the version that was read:
a late writer, such as a worker that its driver lost or a worker of a second driver, changes nothing.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog.errors import CatdogError
from catdog.inputs import KEPT
from catdog.results import damage, plans
from catdog.results.digests import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from catdog.results.plans import Plan

UNCERTAIN = "uncertain"  # the label of an image whose best probability is below the wanted one
TOP_LABELS, TOP_PROBABILITIES = "top_labels", "top_probabilities"  # columns, where asked for
HAS_LABELS = "labels"  # a column, where an image may have several classes: all that it has
DECODED = "decoded"  # a column: which share of a cut picture was there
EMBEDDING = "embedding"  # a column, and the key of what it holds in the schema metadata
TIMING_KEY = "timing"  # of a part file's schema metadata, like the next ones
_LABELS_KEY = "labels"
_KEPT_KEY = "kept"
_STAMP_KEY = "catdog"
_TRIES = 5  # of a write that the store refused though nobody else wrote

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
        pa.field("source_uri", pa.string()),
    ]
)
_SOURCE_URI = "source_uri"
_ALWAYS = frozenset(SCHEMA.names) - {_SOURCE_URI, "scores"}
COLUMNS = frozenset([*SCHEMA.names, HAS_LABELS, TOP_LABELS, TOP_PROBABILITIES, EMBEDDING, DECODED])
"""Names of columns that results may have."""


def build_rows(
    uris: pa.ChunkedArray,
    outcome: pa.Table,
    scores: NDArray[np.float32],
    embeddings: NDArray[np.float16] | None = None,
    *,
    labels: Sequence[str],
    min_probability: float | Sequence[float],
    model: str,
    top: int = 0,
    all_scores: bool = True,
    decoded: bool = False,
    labels_from: Sequence[float] | None = None,
) -> pa.Table:
    """The result rows of images, without what `finish` adds: what the user calls them.

    Args:
        uris: of the images.
        outcome: what became of each: `width` to `error_detail` of `SCHEMA`.
        scores: of every class, float32 (n, classes); what stands for a rejected image is ignored.
        embeddings: float16 (n, size), each of length 1, likewise; a column more where they are given.
        labels: the classes in the order of the scores.
        min_probability: below it the label is `UNCERTAIN`; of all classes, or of each.
        model: fingerprint.
        top: how many classes the columns `top_labels` and `top_probabilities` name; 0 for no such
            columns.
        all_scores: whether there is a column `scores`.
        decoded: whether there is a column `decoded`, which `outcome` has too.
        labels_from: of each class, the score from which an image is of it, where it may be of
            several: then there is a column `labels`.
    """
    rejected = outcome["error"].is_valid().to_numpy()
    best = scores.argmax(axis=1)
    probability = scores.max(axis=1, initial=0)
    names = np.array([*labels, UNCERTAIN], object)
    # Compared in float32, as probabilities are: 0.7 is not to be below 0.7.
    least = np.broadcast_to(np.array(min_probability, np.float32), len(labels))[best]
    label = names[np.where(probability < least, len(labels), best)]
    columns = {
        "uri": uris,
        "label": pa.array(label, pa.string(), mask=rejected),
        "probability": pa.array(probability, pa.float32(), mask=rejected),
        "scores": _lists(scores, rejected),
        "model": pa.array([model] * len(rejected), pa.string()),
    }
    rows = pa.table(
        {
            name: columns.get(name, outcome[name] if name in outcome.column_names else None)
            for name in SCHEMA.names
            if name != _SOURCE_URI
        }
    )
    rows = rows.cast(pa.schema([SCHEMA.field(name) for name in rows.column_names]))
    if labels_from is not None:
        has = classes_from(scores, labels, labels_from)
        told = [None if no else each for no, each in zip(rejected, has, strict=True)]
        rows = rows.append_column(HAS_LABELS, pa.array(told, pa.list_(pa.string())))
    if top:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        best_scores = np.take_along_axis(scores, order, axis=1)
        rows = rows.append_column(TOP_LABELS, _lists(names[order], rejected))
        rows = rows.append_column(TOP_PROBABILITIES, _lists(best_scores, rejected))
    if decoded:
        rows = rows.append_column(DECODED, outcome[DECODED].cast(pa.float32()))
    if not all_scores:
        rows = rows.drop_columns(["scores"])
    return rows if embeddings is None else _with_embeddings(rows, embeddings, rejected)


def classes_from(
    scores: NDArray[np.float32], labels: Sequence[str], labels_from: Sequence[float]
) -> list[list[str]]:
    """All classes of each image whose score is not below the class's, in the order of the labels."""
    has = scores >= np.array(labels_from, np.float32)
    return [[labels[number] for number in np.flatnonzero(row).tolist()] for row in has]


def _lists(values: NDArray[Any], rejected: NDArray[np.bool_]) -> pa.ListArray:
    """Rows of an array (n, m) as lists; null where rejected."""
    offsets = np.concatenate([[0], np.cumsum(np.where(rejected, 0, values.shape[1]))])
    kept = pa.array(values[~rejected].ravel())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), kept, mask=pa.array(rejected))


def _with_embeddings(
    rows: pa.Table, embeddings: NDArray[np.float16], rejected: NDArray[np.bool_]
) -> pa.Table:
    # No list of fixed size: pyarrow reads those that are null in a file from 26 on alone.
    column = _lists(embeddings, rejected)
    described = {"size": embeddings.shape[1], "normalisation": "L2"}
    return rows.append_column(EMBEDDING, column).replace_schema_metadata(
        {EMBEDDING: json.dumps(described)}
    )


def has_several(schema: pa.Schema) -> bool:
    """Whether an image may have several classes: a column `labels` may be the user's own, too."""
    kept = json.loads((schema.metadata or {}).get(_KEPT_KEY.encode(), b"[]"))
    return HAS_LABELS in schema.names and HAS_LABELS not in kept


def labels_of(schema: pa.Schema) -> tuple[str, ...]:
    """The classes in the order of the column `scores`, from a result file's schema."""
    metadata = schema.metadata or {}
    return tuple(str(label) for label in json.loads(metadata.get(_LABELS_KEY.encode(), b"[]")))


@dataclass(frozen=True)
class PartCounts:
    """What result rows hold.

    Attributes:
        images: rows.
        labels: rows by label, rejected ones left out.
        errors: rows by reason, classified ones left out.
    """

    images: int
    labels: Counter[str]
    errors: Counter[str]


def count_rows(table: pa.Table) -> PartCounts:
    """Count the rows of result rows by label and by reason."""

    def by_value(column: str) -> Counter[str]:
        pairs = pc.value_counts(table[column].drop_null())
        return Counter({pair["values"].as_py(): pair["counts"].as_py() for pair in pairs})

    return PartCounts(table.num_rows, by_value("label"), by_value("error"))


# --------------------------------------------------------------------------------------------
# What a file is


@dataclass(frozen=True)
class Part:
    """What the footer of a part file tells.

    Attributes:
        revision: number of the generation that it was written for.
        run: the driver whose worker wrote it.
        fresh: rows that were classified for it; others stayed from the file before.
        uris: `digest` of its URIs.
        models: values of the column `model`, none in a file without rows.
        counts: of its rows.
    """

    revision: int
    run: str
    fresh: int
    uris: str
    models: tuple[str, ...]
    counts: PartCounts

    def fault(self, plan: Plan, shard: int, model: str | None = None) -> str | None:
        """Why it cannot be the file of a shard's latest revision, or None where it is that.

        Args:
            plan: the job's plan.
            shard: number of the shard.
            model: fingerprint that each row must have, where it is to be looked at.
        """
        if self.revision != plan.revision(shard):
            return f"is of generation {self.revision}, not {plan.revision(shard)}"
        if self.counts.images != plan.shard_images[shard]:
            return f"holds {self.counts.images} rows for {plan.shard_images[shard]} images"
        if self.uris != plan.uris_digest(shard):
            return "holds other images than its shard"
        if model is not None and set(self.models) - {model}:
            return "holds rows of another model"
        return None


def read_footer(file: Any) -> Part | None:
    """What a Parquet file tells, or None where it is no whole part file."""
    try:
        metadata = pq.read_metadata(file)
        stamp = json.loads((metadata.metadata or {})[_STAMP_KEY.encode()])
        labels, errors = Counter(stamp["labels"]), Counter(stamp["errors"])
        part = Part(
            int(stamp["revision"]),
            str(stamp["run"]),
            int(stamp["fresh"]),
            str(stamp["uris"]),
            tuple(stamp["models"]),
            PartCounts(metadata.num_rows, labels, errors),
        )
        counts = (*labels.values(), *errors.values())
        sound = _rows_claimed(metadata) == metadata.num_rows <= plans.MOST_ROWS and all(
            type(each) is int and each >= 0 for each in counts
        )
        return part if sound and all(isinstance(each, str) for each in part.models) else None
    except (*damage.ERRORS, OSError):
        return None


def _rows_claimed(metadata: pq.FileMetaData) -> int:
    """Rows of all row groups: Arrow takes memory for so many, before it reads one."""
    groups = range(metadata.num_row_groups)
    return sum(abs(metadata.row_group(at).num_rows) for at in groups)


def look(plan: Plan, shard: int) -> Part | None:
    """The footer of a shard's file; None where there is no whole file."""
    try:
        with plan.folder.open(plan.part_name(shard)) as file:
            return read_footer(file)
    except FileNotFoundError:
        return None


def read_part(plan: Plan, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a finished shard; of `columns`, those that the results have.

    The column `uri` is what opens, whatever the user called the image.

    Raises:
        DamagedError: a page is damaged, or a column is missing that all results have; the footer
            alone is looked at before.
    """
    if columns is not None and "uri" in columns:
        columns = [*columns, _SOURCE_URI]
    name = plan.part_name(shard)
    wanted = list(columns) if columns is not None else None
    with plan.folder.open(name) as file, damage.named(f"{plan.output}/{name}"):
        opened = pq.ParquetFile(file, pre_buffer=False)
        claimed = {_rows_claimed(opened.metadata), opened.metadata.num_rows}
        if claimed != {plan.shard_images[shard]}:
            raise ValueError("its rows are not those of the plan")
        rows = opened.read(columns=wanted, use_threads=False)
        if missing := _ALWAYS.intersection(wanted or _ALWAYS) - {*rows.column_names}:
            raise ValueError(f"it has no column {min(missing)}")
        return _opened(rows)


def _opened(rows: pa.Table) -> pa.Table:
    """Rows of a file, their `uri` what opens: `source_uri` where the user called it otherwise."""
    if _SOURCE_URI not in rows.column_names:
        return rows
    uris = pc.coalesce(rows[_SOURCE_URI], rows["uri"])
    at = rows.column_names.index("uri")
    return rows.set_column(at, SCHEMA.field("uri"), uris).drop_columns([_SOURCE_URI])


def _as_given(rows: pa.Table, entries: pa.Table) -> pa.Table:
    """Rows for a file, their `uri` what a list or table called the image."""
    given, uris = entries["given"], rows["uri"]
    sources = pc.if_else(given.is_valid(), uris, pa.scalar(None, pa.string()))
    named = rows.set_column(
        rows.column_names.index("uri"), SCHEMA.field("uri"), pc.coalesce(given, uris)
    )
    at = rows.column_names.index("model") + 1
    named = named.add_column(at, SCHEMA.field(_SOURCE_URI), sources)
    if KEPT in entries.column_names:
        kept = entries[KEPT].combine_chunks()
        for field, column in zip(kept.type, kept.flatten(), strict=True):
            named = named.append_column(field, column)
        told = {_KEPT_KEY: json.dumps([field.name for field in kept.type])}
        named = named.replace_schema_metadata({**(named.schema.metadata or {}), **told})
    return named


# --------------------------------------------------------------------------------------------
# Doing a shard


@dataclass(frozen=True)
class Work:
    """A shard that is to be done.

    Attributes:
        plan: the job's plan.
        shard: number of the shard.
        entries: to classify, with `plans.ENTRIES_SCHEMA`.
        shard_entries: all of the shard.
        kept: the rows that stay, and for each entry of the shard its place in them, -1 where it is
            classified; None where all are.
        version: of the file that was read, None where there was none.
    """

    plan: Plan
    shard: int
    entries: pa.Table
    shard_entries: pa.Table
    kept: tuple[pa.Table, NDArray[np.int64]] | None
    version: str | None


def begin(plan: Plan, shard: int, *, present: bool) -> Work | None:
    """What is to be done of a shard; None where it is done already.

    Args:
        plan: the job's plan.
        shard: number of the shard.
        present: whether the folder had a file of it: without one, only `finish` looks.
    """
    entries = plan.read_shard(shard)
    content = None
    if present or plan.revision_before(shard):
        content = plan.folder.read(plan.part_name(shard))
    if content is None:
        return Work(plan, shard, entries, entries, None, None)
    data, version = content
    part = read_footer(pa.BufferReader(data))
    if part is not None and (
        part.revision > plan.revision(shard) or part.fault(plan, shard) is None
    ):
        return None
    if part is None or part.revision != plan.revision_before(shard):
        return Work(plan, shard, entries, entries, None, version)
    try:
        rows = _opened(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False))
        if digest(rows, ["uri"]) != part.uris:
            raise ValueError("its rows are not those that its footer names")
    except (*damage.ERRORS, OSError):
        return Work(plan, shard, entries, entries, None, version)  # all are classified again
    places = pc.index_in(_told_apart(entries["uri"]), value_set=_told_apart(rows["uri"]))
    fresh = pc.or_(entries["fresh"], places.is_null())
    places = pc.if_else(fresh, -1, places).to_numpy().astype(np.int64)
    return Work(plan, shard, entries.filter(fresh), entries, (rows, places), version)


def _told_apart(uris: pa.ChunkedArray) -> pa.Array[Any]:
    """URIs, those that came before with how many times they did: of tables whose rows each count."""
    if pc.count_distinct(uris).as_py() == len(uris):
        return uris.combine_chunks()
    seen = Counter[str]()
    told = []
    for uri in uris.to_pylist():
        told.append(f"{uri}\0{seen[uri]}" if seen[uri] else uri)
        seen[uri] += 1
    return pa.array(told, pa.string())


def finish(
    work: Work,
    rows: pa.Table,
    *,
    labels: Sequence[str],
    run: str,
    timing: Mapping[str, float] | None = None,
) -> tuple[Part, bool]:
    """Write the file of a shard, unless another worker did.

    Args:
        work: from `begin`.
        rows: one row for each of its entries, of `build_rows`.
        labels: the classes in the order of `scores`, for the file's schema metadata.
        run: the driver that this worker belongs to.
        timing: `started_at`, `ended_at` (Unix seconds) and seconds by stage (`read_s`, ...), for the
            schema metadata: a report over several runs shows them.

    Returns:
        What the file tells, and whether it is this run's.

    Raises:
        CatdogError: the rows are not those of the shard; or what is there now is neither what was
            read nor finished.
    """
    plan, shard, version = work.plan, work.shard, work.version
    whole = _whole(work, rows)
    part = Part(
        plan.revision(shard),
        run,
        rows.num_rows,
        digest(whole, ["uri"]),
        tuple(pc.unique(whole["model"]).to_pylist()),
        count_rows(whole),
    )
    if fault := part.fault(plan, shard):
        raise CatdogError(f"what was classified for shard {shard} {fault}")
    data = _serialized(_as_given(whole, work.shard_entries), part, labels, timing)
    name = plan.part_name(shard)
    for _ in range(_TRIES):
        if version is None:
            written = plan.folder.create(name, data)
        else:
            written = plan.folder.replace(name, data, version)
        if written:
            return part, True
        there = plan.folder.read(name)
        if there is None:
            version = None  # deleted by somebody's hand
            continue
        other = read_footer(pa.BufferReader(there[0]))
        if other is not None and (
            other.revision > part.revision or other.fault(plan, shard) is None
        ):
            return other, other.run == run
        if version is not None and there[1] != version and other is not None:
            break
        version = there[1]  # nothing that counts: half a copy, or what was there before
    raise CatdogError(
        f"{plan.output}/{name} was changed by something else; run the same command again"
    )


def _whole(work: Work, rows: pa.Table) -> pa.Table:
    """All rows of a shard, in its order."""
    if work.kept is None:
        return rows
    before, places = work.kept
    fresh = places < 0
    if int(fresh.sum()) != rows.num_rows:
        return rows  # too few or too many, as `finish` will say
    take = np.where(fresh, before.num_rows + np.cumsum(fresh) - 1, places)
    return pa.concat_tables([before.select(rows.column_names).cast(rows.schema), rows]).take(
        pa.array(take)
    )


def _serialized(
    rows: pa.Table, part: Part, labels: Sequence[str], timing: Mapping[str, float] | None
) -> bytes:
    stamp = {
        "revision": part.revision,
        "run": part.run,
        "fresh": part.fresh,
        "uris": part.uris,
        "models": part.models,  # pyarrow ends the process over some damaged statistics of a column
        "labels": part.counts.labels,
        "errors": part.counts.errors,
    }
    metadata = {_LABELS_KEY: json.dumps(list(labels)), _STAMP_KEY: json.dumps(stamp)}
    if timing is not None:
        metadata[TIMING_KEY] = json.dumps(dict(timing))
    own = {key.decode(): text.decode() for key, text in (rows.schema.metadata or {}).items()}
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(own | metadata), buffer, compression="zstd")
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------
# What the folder holds


@dataclass(frozen=True)
class Survey:
    """What the folder holds of a plan, shard by shard.

    Attributes:
        present: bool (shards,), whether there is a file, whole or not.
        done: bool (shards,), whether it is the whole one that the plan asks for.
        rejected: int64 (shards,), rows with an error of each file that is done.
        counts: sums over those.
        faults: of files that are whole and of this generation, but not what they should be.
        strangers: names of Parquet files that are no shard of this plan.
        overtaken: whether a file is of a later generation: another driver has gone on.
    """

    present: NDArray[np.bool_]
    done: NDArray[np.bool_]
    rejected: NDArray[np.int64]
    counts: PartCounts
    faults: list[str]
    strangers: list[str]
    overtaken: bool

    def todo(self, sizes: Sequence[int]) -> list[int]:
        """The unfinished shards, large ones first so that the last to run are short."""
        left = np.flatnonzero(~self.done).tolist()
        return sorted(left, key=lambda shard: (-sizes[shard], shard))


def survey(plan: Plan, model: str | None = None) -> Survey:
    """Look at the footers of all part files in a plan's folder.

    A file without a valid footer, or with other images than its shard has, was never written: its
    shard is not done. One with rows of another model than `model` is not done either.
    """
    own = {plan.part_name(shard): shard for shard in range(plan.shards)}
    names = [name for name in plan.folder.names() if name.endswith(".parquet")]
    shards = [own[name] for name in names if name in own]
    present = np.zeros(plan.shards, np.bool_)
    present[shards] = True
    done = np.zeros(plan.shards, np.bool_)
    rejected = np.zeros(plan.shards, np.int64)
    images, labels, errors = 0, Counter[str](), Counter[str]()
    faults: list[str] = []
    overtaken = False
    parts = plan.folder.each(lambda shard: look(plan, shard), shards)
    for shard, part in zip(shards, parts, strict=True):
        if part is None:
            continue
        overtaken = overtaken or part.revision > plan.revision(shard)
        fault = part.fault(plan, shard, model)
        if fault is None:
            done[shard] = True
            rejected[shard] = sum(part.counts.errors.values())
            images += part.counts.images
            labels += part.counts.labels
            errors += part.counts.errors
        elif part.revision == plan.revision(shard):
            faults.append(f"{plan.part_name(shard)} {fault}")
    return Survey(
        present,
        done,
        rejected,
        PartCounts(images, labels, errors),
        faults,
        [name for name in names if name not in own],
        overtaken,
    )
