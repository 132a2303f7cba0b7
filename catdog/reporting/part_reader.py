"""Reads part files, each once, for the tally to add up."""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.errors import CatdogError, ErrorCode, UserInputError
from catdog.reporting.candidates import CANDIDATE, Best
from catdog.reporting.config import MAX_THUMBNAILS
from catdog.reporting.counting import Part, Tally, Timing, bar_edges, thresholds
from catdog.results import damage, ledger, part_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from catdog.inputs import GivenLabels
    from catdog.observer import Observer
    from catdog.reporting.candidates import Candidates
    from catdog.results import Plan

READ_THREADS = 8
_SHOWN_REJECTED = 50  # of each reason
_CELL_PICTURES = 8  # of each cell of the confusion matrix

_T = TypeVar("_T")


def count_parts(reader: PartReader, planned: int, observer: Observer) -> Tally:
    """Read all part files, each once, several at a time."""
    tally = reader.tally
    for part in in_order(reader.read, reader.shards, READ_THREADS):
        if part is not None:
            tally.add(part)
            observer.rows_read(tally.images, planned)
    if not tally.images:
        raise UserInputError(f"RESULTS {reader.plan.output}: no image is done yet")
    return tally


def in_order(read: Callable[[int], _T], items: Sequence[int], threads: int) -> Iterator[_T]:
    """`map` on a pool of threads, which works only a little ahead of the caller."""
    waiting: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(threads, "catdog-report") as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= 3 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True)
class Answers:
    """The answers for the images of a part file.

    Attributes:
        table: the columns label, probability and error, and the requested ones.
        good: whether an image has a label, bool (n,).
        label: number of the best class, int32 (n,); -1 if rejected.
        truth: number of the true class, int32 (n,); -1 if unknown.
        probability: probability of the best class, float32 (n,); 0 if rejected.
    """

    table: pa.Table
    good: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int32]
    truth: npt.NDArray[np.int32]
    probability: npt.NDArray[np.float32]


class PartReader:
    """Reads part files for the tally.

    Args:
        plan: of the results.
        run: the content of `_run.json`.
        advised: a threshold that the tally must be able to count at.
        thumbnails: the most pictures of each kind.
        given: labels in the place of the images' own.
    """

    def __init__(
        self,
        plan: Plan,
        run: dict[str, Any],
        advised: float = 0.0,
        thumbnails: int = 0,
        given: GivenLabels | None = None,
    ) -> None:
        self.plan, self._given = plan, given
        names = set(storage.list_names(plan.output))
        shards = [shard for shard in range(plan.shards) if plan.part_name(shard) in names]
        self.shards = shards
        self._plan_lock = threading.Lock()  # one reader of a Parquet file is not for many threads
        labels = self._labels(shards)
        with damage.named(f"{plan.output}/{ledger.RUN_FILE}"):
            minimum = float(run.get("question", {}).get("min_probability", 0.0))
        thumbnails = min(thumbnails, MAX_THUMBNAILS)
        several = self._several_classes(shards)
        self.tally = Tally(
            labels=labels,
            thresholds=thresholds(len(labels), (minimum, advised), several=several),
            min_probability=minimum,
            several=several,
            # Of several classes none is the true one.
            truth=None if several else self._find_truth(shards, labels),
            certain=Best(thumbnails),
            doubtful=Best(thumbnails),
            spread=Best(1 if thumbnails else 0),
            mistakes=Best(thumbnails),
            bars=Best(1 if thumbnails else 0),
            cells=Best(min(thumbnails, _CELL_PICTURES)),
            sampled_rejected=Best(_SHOWN_REJECTED),
        )
        self._strata = max(8, thumbnails)
        self._edges = bar_edges(len(labels), several=several)

    def _labels(self, shards: Sequence[int]) -> tuple[str, ...]:
        for shard in shards:
            table = self._table(shard, ["label"])
            if table is None:
                continue
            with damage.named(f"{self.plan.output}/{self.plan.part_name(shard)}"):
                if labels := part_files.labels_of(table.schema):
                    return labels
        raise UserInputError(f"RESULTS {self.plan.output}: no image is done yet")

    def _several_classes(self, shards: Sequence[int]) -> bool:
        """Whether an image may have several classes."""
        tables = (self._table(shard, [part_files.HAS_LABELS]) for shard in shards)
        first = next((table for table in tables if table is not None), None)
        return first is not None and part_files.has_several(first.schema)

    def _find_truth(self, shards: Sequence[int], labels: tuple[str, ...]) -> str | None:
        """Where most true classes are named, judged by a few shards from all over the plan."""
        sample = sorted({shards[i] for i in np.linspace(0, len(shards) - 1, 8).astype(int)})
        found = Counter[str]()
        entries = 0
        for shard in sample:
            table = self._entries(shard)
            entries += table.num_rows
            for source in ("label", "folder"):
                found[source] += int((_true_class(table, source, labels) >= 0).sum())
        source, count = found.most_common(1)[0]  # at a tie the first: the label
        return source if 2 * count >= entries > 0 else None

    def _entries(self, shard: int) -> pa.Table:
        with self._plan_lock:
            entries = self.plan.read_shard(shard)
        if self._given is None:
            return entries
        labels, _ = self._given.over(entries["uri"], entries["label"])
        return entries.set_column(entries.schema.get_field_index("label"), "label", labels)

    def _table(self, shard: int, columns: Sequence[str]) -> pa.Table | None:
        """Columns of a part file; None if it is not whole and so counts as not written."""
        try:
            table = part_files.read_part(self.plan, shard, columns)
        except (damage.DamagedError, FileNotFoundError):
            return None
        except OSError as error:
            if storage.is_local(self.plan.output):
                return None  # Arrow's word for a damaged file
            raise CatdogError(f"{self.plan.output}: cannot be read: {error}") from error
        return table if table.num_rows == self.plan.shard_images[shard] else None

    def answers(self, shard: int, columns: Sequence[str] = ()) -> Answers | None:
        """The answers for the images of a part file; None if the file is not whole.

        Args:
            shard: the shard's number.
            columns: columns to read besides label, probability and error.
        """
        table = self._table(shard, ["label", "probability", "error", *columns])
        if table is None:
            return None
        labels, count = self.tally.labels, table.num_rows
        good = table["error"].is_null().to_numpy()
        label = index(table["label"], labels)
        if (label[good] < 0).any():  # `uncertain`: the best class is in the scores
            label = self._best_classes(shard, good, len(labels))
        probability = np.nan_to_num(
            pc.fill_null(table["probability"], 0.0).to_numpy().astype(np.float32)
        )
        truth = np.full(count, -1, np.int32)
        if self.tally.truth:
            truth = _true_class(self._entries(shard), self.tally.truth, labels)
        return Answers(table, good, label, truth, probability)

    def has(self, shard: int) -> pa.ListArray | None:
        """Numbers of all classes of each image of an existing part file; none for rejected images.

        Returns None if an image has one class only.
        """
        if not self.tally.several:
            return None
        column = part_files.read_part(self.plan, shard, [part_files.HAS_LABELS])
        told = column[part_files.HAS_LABELS]
        lengths = pc.fill_null(pc.list_value_length(told), 0).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        numbers = index(pc.list_flatten(told), self.tally.labels)
        return pa.ListArray.from_arrays(offsets, pa.array(numbers, pa.int32()))

    def uris(self, shard: int) -> pa.ChunkedArray:
        """URIs of the images of an existing part file."""
        return part_files.read_part(self.plan, shard, ["uri"])["uri"]

    def read(self, shard: int) -> Part | None:
        """What a part file adds to the tally; None if the file is not whole."""
        answers = self.answers(shard, ["format", "size"])
        if answers is None:
            return None
        tally, table = self.tally, answers.table
        good, label, truth, probability = (
            answers.good,
            answers.label,
            answers.truth,
            answers.probability,
        )
        classes, count = len(tally.labels), table.num_rows
        counts = part_files.count_rows(table)
        bins = np.searchsorted(tally.thresholds, probability, side="right") - 1
        flat = label.astype(np.int64) * len(tally.thresholds) + np.maximum(bins, 0)
        known = good & (truth >= 0)

        rows = np.empty(count, CANDIDATE)
        rows["shard"], rows["row"] = shard, np.arange(count)
        rows["tie"] = np.random.default_rng(shard).random(count, np.float32)
        rows["label"], rows["truth"], rows["probability"] = label, truth, probability

        def candidates(best: Best, mask: Any, group: Any, key: Any) -> Candidates:
            chosen = rows.copy()
            chosen["group"], chosen["key"] = group, key
            return best.prune(chosen[mask])

        bars = np.clip(np.searchsorted(self._edges, probability + 1e-6, "right") - 1, 0, None)
        bars = np.minimum(bars, len(self._edges) - 2)
        stratum = np.minimum((probability * self._strata).astype(np.int32), self._strata - 1)
        reasons = index(table["error"], [code.value for code in ErrorCode])
        return Part(
            images=count,
            errors=counts.errors,
            labels=counts.labels,
            formats=Counter(
                {
                    pair["values"]: pair["counts"]
                    for pair in pc.value_counts(table["format"].drop_null()).to_pylist()
                }
            ),
            bytes=pc.sum(table["size"]).as_py() or 0,
            timings=self._timings(shard, table),
            histogram=np.unique(flat[good], return_counts=True),
            known=np.unique(flat[known], return_counts=True),
            right=np.unique(flat[known & (truth == label)], return_counts=True),
            confusion=np.unique(
                truth[known].astype(np.int64) * classes + label[known], return_counts=True
            ),
            certain=candidates(tally.certain, good, label, -probability),
            doubtful=candidates(tally.doubtful, good, label, probability),
            spread=candidates(tally.spread, good, label * self._strata + stratum, 0),
            bars=candidates(tally.bars, good, label * (len(self._edges) - 1) + bars, 0),
            cells=candidates(tally.cells, known, truth * classes + label, -probability),
            mistakes=candidates(tally.mistakes, known & (truth != label), 0, -probability),
            rejected=candidates(tally.sampled_rejected, reasons >= 0, reasons, 0),
        )

    def _best_classes(
        self, shard: int, good: npt.NDArray[np.bool_], classes: int
    ) -> npt.NDArray[np.int32]:
        table = self._table(shard, ["scores", part_files.TOP_LABELS])
        if table is None:
            raise CatdogError(f"{self.plan.output}: a part file disappeared while it was read")
        label = np.full(len(good), -1, np.int32)
        if "scores" in table.column_names:
            scores = pc.list_flatten(table["scores"]).to_numpy().reshape(-1, classes)
            label[good] = scores.argmax(axis=1)
        else:
            best = pc.list_element(table[part_files.TOP_LABELS].filter(pa.array(good)), 0)
            label[good] = index(best, self.tally.labels)
        return label

    def _timings(self, shard: int, table: pa.Table) -> list[Timing]:
        told = (table.schema.metadata or {}).get(part_files.TIMING_KEY.encode())
        if told is not None:
            with damage.named(f"{self.plan.output}/{self.plan.part_name(shard)}"):
                content = {name: float(each) for name, each in json.loads(told).items()}
                started, ended = content["started_at"], content["ended_at"]
            stages = {
                name.removesuffix("_s"): seconds
                for name, seconds in content.items()
                if name.endswith("_s")
            }
            return [Timing(table.num_rows, started, ended, stages)]
        if not storage.is_local(self.plan.output):
            return []
        name = self.plan.part_name(shard)
        path = Path(storage.local_path(storage.join(self.plan.output, name)))
        return [Timing(table.num_rows, None, path.stat().st_mtime)]


def index(column: pa.ChunkedArray, values: Sequence[str]) -> npt.NDArray[np.int32]:
    """int32 (n,): the position of each value among `values`, -1 for null and for others."""
    found = pc.index_in(column, value_set=pa.array(values, pa.string()), skip_nulls=True)
    index: npt.NDArray[np.int32] = pc.fill_null(found, -1).to_numpy()
    return index


def _true_class(entries: pa.Table, source: str, labels: Sequence[str]) -> npt.NDArray[np.int32]:
    """int32 (n,): the class that the plan's label column, or the parent folder, names; else -1."""
    column = entries["label"]
    if source == "folder":
        parent = pc.extract_regex(entries["name"], r"(?:^|/)(?P<folder>[^/]+)/[^/]*$")
        column = pc.struct_field(parent, "folder")
    return index(column, labels)
