"""A results folder as one page to look at: self-contained HTML that opens from disk.

    part files --tally--> counts, histograms, a few chosen rows --thumbnails, plots--> one page

The part files are read one by one, and of each only sums and the best candidates for the galleries
are kept: memory grows neither with the images nor with the files. What the page's threshold slider
needs are the histograms; no row is in the page but the chosen ones.

File names, messages and pictures come from strangers. Names are escaped by Jinja2, control and
direction characters are spelled out, pictures are decoded in `decoding`'s child process, and the
page's Content-Security-Policy permits no network and no script but its own.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro.conf

from catdog import evaluation, machine, storage
from catdog.errors import CatdogError, ErrorCode, UserInputError
from catdog.inputs import SourceLimits
from catdog.model import folders
from catdog.observer import Observer
from catdog.pixels import DecodeLimits, Decoder, Preprocessing
from catdog.results import part_files, plans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt
    from markupsafe import Markup
    from matplotlib.figure import Figure

    from catdog.evaluation import Evaluation
    from catdog.pixels import DecodedBatch
    from catdog.results import Plan

REPORT_FILE = "_report.html"
"""With an underscore: readers that take the results folder as a dataset skip such files."""
EVALUATION_REPORT_FILE = "report.html"
"""Of an evaluation, whose folder is no dataset but holds one."""

_READ_THREADS = 8
_STEPS = 200  # of the threshold, from 0 to 1
_SHOWN_LABELS = 50  # rows of the table; the others are one row
_GALLERIES = 30
_MAX_THUMBNAILS = 300
_SHOWN_REJECTED = 50  # of each reason
_MATRIX_LABELS = 12
_THUMBNAIL_PIXELS = 240  # of the longer side
_THUMBNAIL_QUALITY = 68
_MAX_PICTURE_BYTES = 12 << 20  # of all thumbnails together
_THUMBNAILS_TIMEOUT_S = 90.0  # after it, the page is written without the missing ones
# A member of a .tar.gz is reached only by decompressing all that lies before it.
_MAX_STREAM_OFFSET = 4 << 30

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which results to show, and where the page goes.

    Attributes:
        results: folder that `catdog classify` or `catdog evaluate` wrote; local or S3.
        output: the HTML file; by default `_report.html` in the folder of results, `report.html` in
            that of an evaluation.
        thumbnails: most pictures of a label.
    """

    results: tyro.conf.Positional[str]
    output: str | None = None
    thumbnails: int = 24

    def __post_init__(self) -> None:
        if not 0 <= self.thumbnails <= _MAX_THUMBNAILS:
            raise UserInputError(f"--thumbnails must be 0 to {_MAX_THUMBNAILS}")


@dataclass(frozen=True)
class ReportSummary:
    """What the page shows.

    Attributes:
        output: URI of the page.
        images: rows that the results hold.
        classified: the ones with a label.
        rejected: the ones with an error.
        accuracy: of the classified images whose folder or label column names a class, or None.
        thumbnails: pictures in the page.
        bytes: size of the page.
        seconds: that it took to make.
    """

    output: str
    images: int
    classified: int
    rejected: int
    accuracy: float | None
    thumbnails: int
    bytes: int
    seconds: float


def write(config: ReportConfig, observer: Observer | None = None) -> ReportSummary:
    """Read the results, write the page. Results of an unfinished job are shown as far as they go.

    Raises:
        UserInputError: there are no results, or the page cannot be written there.
        CatdogError: a file of the results is damaged.
    """
    started = time.monotonic()
    observer = observer or Observer()
    uri = _uri("RESULTS", config.results)
    plan, evaluated = _find(config.results, uri)
    name = REPORT_FILE if plan.output == uri else EVALUATION_REPORT_FILE
    output = _uri("--output", config.output) if config.output else storage.join(uri, name)
    run = part_files.read_json(plan.output, part_files.RUN_FILE) or {}
    summary = part_files.read_json(plan.output, part_files.SUMMARY_FILE)
    observer.phase("reading the results")
    advised = evaluated.threshold if evaluated is not None else None
    tally = _tally(plan, run, advised or 0.0, config.thumbnails, observer)
    if evaluated is not None and evaluated.images != tally.classified:
        evaluated = None  # rejected images were tried again since: its figures are of others
    chosen = _choose(tally, config.thumbnails)
    rows = _read_rows(plan, chosen.all())
    pictures = _fetch_thumbnails(plan, run, chosen.pictured(), observer)
    page = _Page(config, plan, run, summary, evaluated, tally, chosen, rows, pictures)
    html = page.render().encode("utf-8", "replace")
    try:
        storage.write_atomic(output, html)
    except OSError as error:
        raise UserInputError(f"--output {output}: cannot be written: {error}") from error
    return ReportSummary(
        output=output,
        images=tally.images,
        classified=tally.classified,
        rejected=tally.rejected,
        accuracy=tally.right_share,
        thumbnails=sum(picture.data_uri is not None for picture in pictures.values()),
        bytes=len(html),
        seconds=round(time.monotonic() - started, 2),
    )


def _uri(flag: str, text: str) -> str:
    try:
        return storage.to_uri(text)
    except ValueError as error:
        raise UserInputError(f"{flag} {text}: {error}") from error


def _find(text: str, uri: str) -> tuple[Plan, Evaluation | None]:
    """The plan of results, or of an evaluation's results, and what that measured.

    Raises:
        UserInputError: it is neither.
    """
    plan = plans.read(uri)
    if plan is not None:
        return plan, None
    plan = plans.read(storage.join(uri, evaluation.RESULTS_FOLDER))
    if plan is not None:
        return plan, evaluation.read(uri)
    raise UserInputError(
        f"RESULTS {text}: no results there; name the --output folder of a `catdog classify` or "
        "`catdog evaluate` job"
    )


# --------------------------------------------------------------------------------------------
# Counting: part files to sums and candidates

# A row that may be shown. `key` orders the candidates of a group, smallest first; `tie` is random
# (but the same in every run), so that of a million images with probability 1 the shown ones come
# from all over the job.
_CANDIDATE = np.dtype(
    [
        ("group", np.int32),
        ("key", np.float32),
        ("tie", np.float32),
        ("shard", np.int32),
        ("row", np.int32),
        ("label", np.int32),
        ("truth", np.int32),
        ("probability", np.float32),
    ]
)
_Candidates = np.ndarray[Any, np.dtype[np.void]]
_Place = tuple[int, int]  # shard, row in it


class _Best:
    """The candidates with the smallest keys of each group, `count` of each, in bounded memory."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: list[_Candidates] = []
        self._rows = 0

    def prune(self, candidates: _Candidates) -> _Candidates:
        """Those of the candidates that are among the best, by group, best first."""
        if self.count == 0:
            return np.empty(0, _CANDIDATE)
        order = np.lexsort((candidates["tie"], candidates["key"], candidates["group"]))
        ordered = candidates[order]
        group = ordered["group"]
        first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else group
        sizes = np.diff(np.r_[first, len(group)])
        rank = np.arange(len(group)) - np.repeat(first, sizes)
        kept: _Candidates = ordered[rank < self.count]
        return kept

    def add(self, candidates: _Candidates) -> None:
        """Take more candidates, pruned ones for preference."""
        self._held.append(candidates)
        self._rows += len(candidates)
        if self._rows > 100_000:
            self._held = [self.result()]
            self._rows = len(self._held[0])

    def result(self) -> _Candidates:
        """The best of all, by group, best first."""
        return self.prune(np.concatenate([np.empty(0, _CANDIDATE), *self._held]))

    def of(self, group: int) -> _Candidates:
        """The best of one group, best first."""
        best = self.result()
        chosen: _Candidates = best[best["group"] == group]
        return chosen


@dataclass(frozen=True)
class _Timing:
    """When a part file was made, in Unix time, and what it cost the worker."""

    images: int
    started_at: float | None
    ended_at: float
    stages_s: dict[str, float] = field(default_factory=dict)


@dataclass
class _Tally:
    """What the part files hold.

    Attributes:
        labels: classes in the order of scores.
        thresholds: float32, ascending; bin `i` of a histogram starts at `thresholds[i]`.
        min_probability: what the job asked for; below it the label is `uncertain`.
        histogram: int64 (classes, bins): classified images by their best class and probability.
        right: int64 (classes, bins): those of them whose true class is the best one.
        known: int64 (classes, bins): those of them whose true class is known.
        confusion: int64 (classes, classes): by true and by best class.
        truth: where the true class comes from: `label`, `folder` or None.
    """

    labels: tuple[str, ...]
    thresholds: npt.NDArray[np.float32]
    min_probability: float
    truth: str | None
    certain: _Best
    doubtful: _Best
    spread: _Best
    mistakes: _Best
    sampled_rejected: _Best
    images: int = 0
    shards: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    written_labels: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    timings: list[_Timing] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (len(self.labels), len(self.thresholds))
        self.histogram = np.zeros(shape, np.int64)
        self.right = np.zeros(shape, np.int64)
        self.known = np.zeros(shape, np.int64)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)

    @property
    def rejected(self) -> int:
        return sum(self.errors.values())

    @property
    def classified(self) -> int:
        return self.images - self.rejected

    @property
    def right_share(self) -> float | None:
        known = int(self.known.sum())
        return float(self.right.sum() / known) if self.truth and known else None

    @property
    def start(self) -> int:
        """Number of the threshold that the job itself used."""
        return int(np.searchsorted(self.thresholds, np.float32(self.min_probability)))

    def add(self, part: _Part) -> None:
        """Count a part file."""
        self.images += part.images
        self.shards += 1
        self.errors += part.errors
        self.written_labels += part.labels
        self.formats += part.formats
        self.bytes += part.bytes
        self.timings += part.timings
        for sums, pairs in (
            (self.histogram, part.histogram),
            (self.known, part.known),
            (self.right, part.right),
            (self.confusion, part.confusion),
        ):
            np.add.at(sums.reshape(-1), pairs[0], pairs[1])
        self.certain.add(part.certain)
        self.doubtful.add(part.doubtful)
        self.spread.add(part.spread)
        self.mistakes.add(part.mistakes)
        self.sampled_rejected.add(part.rejected)


_Pairs = tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]  # flat index, count


@dataclass(frozen=True)
class _Part:
    """What one part file adds to the tally."""

    images: int
    errors: Counter[str]
    labels: Counter[str]
    formats: Counter[str]
    bytes: int
    timings: list[_Timing]
    histogram: _Pairs
    known: _Pairs
    right: _Pairs
    confusion: _Pairs
    certain: _Candidates
    doubtful: _Candidates
    spread: _Candidates
    mistakes: _Candidates
    rejected: _Candidates


def _thresholds(classes: int, others: Iterable[float]) -> npt.NDArray[np.float32]:
    """Where a histogram's bins start: 0, then from chance upwards, and others of interest."""
    lowest = _STEPS // max(classes, 1)
    steps = {0.0, *others, *(k / _STEPS for k in range(lowest, _STEPS + 1))}
    # float32 as the probabilities are: 0.7 is to be on the same side as in `results.build_rows`.
    return np.unique(np.array(sorted(steps), np.float32))


def _tally(
    plan: Plan,
    run: dict[str, Any],
    advised: float,
    thumbnails: int,
    observer: Observer,
) -> _Tally:
    """Read all part files, each once, several at a time."""
    names = set(storage.list_names(plan.output))
    shards = [
        shard
        for shard in range(plan.shards)
        if part_files.part_name(plan.identifier, shard) in names
    ]
    reader = _PartReader(plan, shards, run, advised, thumbnails)
    started = time.monotonic()
    for part in _in_order(reader.read, shards, _READ_THREADS):
        if part is not None:
            reader.tally.add(part)
            elapsed = time.monotonic() - started
            tally = reader.tally
            observer.progress(
                tally.images, plan.images, tally.rejected, tally.images / max(elapsed, 1e-3)
            )
    if not reader.tally.images:
        raise UserInputError(f"RESULTS {plan.output}: no image is done yet")
    return reader.tally


def _in_order(read: Callable[[int], _T], items: Sequence[int], threads: int) -> Iterator[_T]:
    """`map` on a pool of threads that runs ahead only a little."""
    waiting: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(threads, "catdog-report") as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= 3 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _PartReader:
    """Reads part files into what the tally adds up."""

    def __init__(
        self,
        plan: Plan,
        shards: Sequence[int],
        run: dict[str, Any],
        advised: float,
        thumbnails: int,
    ) -> None:
        self._plan = plan
        self._plan_lock = threading.Lock()  # one reader of a Parquet file is not for many threads
        labels = self._labels(shards)
        minimum = float(run.get("question", {}).get("min_probability", 0.0))
        thumbnails = min(thumbnails, _MAX_THUMBNAILS)
        self.tally = _Tally(
            labels=labels,
            thresholds=_thresholds(len(labels), (minimum, advised)),
            min_probability=minimum,
            truth=self._find_truth(shards, labels),
            certain=_Best(thumbnails),
            doubtful=_Best(thumbnails),
            spread=_Best(1 if thumbnails else 0),
            mistakes=_Best(thumbnails),
            sampled_rejected=_Best(_SHOWN_REJECTED),
        )
        self._strata = max(8, thumbnails)

    def _labels(self, shards: Sequence[int]) -> tuple[str, ...]:
        for shard in shards:
            table = self._table(shard, ["label"])
            if table is not None and (labels := part_files.labels_of(table.schema)):
                return labels
        raise UserInputError(f"RESULTS {self._plan.output}: no image is done yet")

    def _find_truth(self, shards: Sequence[int], labels: tuple[str, ...]) -> str | None:
        """Where most of the images' true classes stand, by a few shards from all over the plan."""
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
            return self._plan.read_shard(shard)

    def _table(self, shard: int, columns: Sequence[str]) -> pa.Table | None:
        """Columns of a part file; None where it is not whole, and so was never written."""
        try:
            table = part_files.read_part(self._plan, shard, columns)
        except (pa.ArrowInvalid, FileNotFoundError):
            return None
        except OSError as error:
            if storage.is_local(self._plan.output):
                return None  # Arrow's word for a damaged file
            raise CatdogError(f"{self._plan.output}: cannot be read: {error}") from error
        return table if table.num_rows == self._plan.shard_images[shard] else None

    def read(self, shard: int) -> _Part | None:
        """What a part file holds; None where it is not whole."""
        table = self._table(shard, ["label", "probability", "format", "size", "error"])
        if table is None:
            return None
        tally = self.tally
        classes, count = len(tally.labels), table.num_rows
        counts = part_files.count_rows(table)
        good = table["error"].is_null().to_numpy()
        label = _index(table["label"], tally.labels)
        if (label[good] < 0).any():  # `uncertain`: the best class is in the scores
            label = self._best_classes(shard, good, classes)
        probability = np.nan_to_num(
            pc.fill_null(table["probability"], 0.0).to_numpy().astype(np.float32)
        )
        truth = np.full(count, -1, np.int32)
        if tally.truth:
            truth = _true_class(self._entries(shard), tally.truth, tally.labels)
        bins = np.searchsorted(tally.thresholds, probability, side="right") - 1
        flat = label.astype(np.int64) * len(tally.thresholds) + np.maximum(bins, 0)
        known = good & (truth >= 0)

        rows = np.empty(count, _CANDIDATE)
        rows["shard"], rows["row"] = shard, np.arange(count)
        rows["tie"] = np.random.default_rng(shard).random(count, np.float32)
        rows["label"], rows["truth"], rows["probability"] = label, truth, probability

        def candidates(best: _Best, mask: Any, group: Any, key: Any) -> _Candidates:
            chosen = rows.copy()
            chosen["group"], chosen["key"] = group, key
            return best.prune(chosen[mask])

        stratum = np.minimum((probability * self._strata).astype(np.int32), self._strata - 1)
        reasons = _index(table["error"], [code.value for code in ErrorCode])
        return _Part(
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
            mistakes=candidates(tally.mistakes, known & (truth != label), 0, -probability),
            rejected=candidates(tally.sampled_rejected, reasons >= 0, reasons, 0),
        )

    def _best_classes(
        self, shard: int, good: npt.NDArray[np.bool_], classes: int
    ) -> npt.NDArray[np.int32]:
        table = self._table(shard, ["scores"])
        if table is None:
            raise CatdogError(f"{self._plan.output}: a part file went while it was read")
        scores = pc.list_flatten(table["scores"]).to_numpy().reshape(-1, classes)
        label = np.full(len(good), -1, np.int32)
        label[good] = scores.argmax(axis=1)
        return label

    def _timings(self, shard: int, table: pa.Table) -> list[_Timing]:
        told = (table.schema.metadata or {}).get(part_files.TIMING_KEY.encode())
        if told is not None:
            content: dict[str, float] = json.loads(told)
            stages = {
                name.removesuffix("_s"): seconds
                for name, seconds in content.items()
                if name.endswith("_s")
            }
            return [_Timing(table.num_rows, content["started_at"], content["ended_at"], stages)]
        if not storage.is_local(self._plan.output):
            return []
        name = part_files.part_name(self._plan.identifier, shard)
        path = Path(storage.local_path(storage.join(self._plan.output, name)))
        return [_Timing(table.num_rows, None, path.stat().st_mtime)]


def _index(column: pa.ChunkedArray, values: Sequence[str]) -> npt.NDArray[np.int32]:
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
    return _index(column, labels)


# --------------------------------------------------------------------------------------------
# Choosing: candidates to the rows that are shown


@dataclass(frozen=True)
class _Chosen:
    """The rows that are shown.

    Attributes:
        galleries: of each label by its index, most certain first.
        mistakes: most certain first.
        rejected: of each reason.
    """

    galleries: dict[int, _Candidates]
    mistakes: _Candidates
    rejected: dict[str, _Candidates]

    def pictured(self) -> list[_Place]:
        """Places of the rows that are shown as pictures, each once, in the order of the plan."""
        return _places([*self.galleries.values(), self.mistakes])

    def all(self) -> list[_Place]:
        """Places of all shown rows, each once, in the order of the plan."""
        return _places([*self.galleries.values(), self.mistakes, *self.rejected.values()])


def _places(groups: Iterable[_Candidates]) -> list[_Place]:
    return sorted(
        {
            (shard, row)
            for group in groups
            for shard, row in zip(group["shard"].tolist(), group["row"].tolist(), strict=True)
        }
    )


def _choose(tally: _Tally, thumbnails: int) -> _Chosen:
    by_label = tally.histogram.sum(axis=1)
    shown = [int(label) for label in np.argsort(-by_label, kind="stable") if by_label[label]]
    shown = shown[:_GALLERIES]
    each = min(thumbnails, _MAX_THUMBNAILS // max(1, len(shown) + bool(tally.truth)))
    strata = max(8, thumbnails)
    spread = tally.spread.result()
    galleries = {
        label: _gallery(
            tally.certain.of(label),
            tally.doubtful.of(label),
            spread[spread["group"] // strata == label],
            each,
        )
        for label in shown
    }
    return _Chosen(
        galleries=galleries,
        mistakes=tally.mistakes.of(0)[:each],
        rejected={
            code.value: tally.sampled_rejected.of(number)
            for number, code in enumerate(ErrorCode)
            if tally.errors[code.value]
        },
    )


def _gallery(
    certain: _Candidates, doubtful: _Candidates, spread: _Candidates, count: int
) -> _Candidates:
    """A third the most certain, a third the least, the rest from all between; certain first."""
    third = count // 3 if len(spread) else 0
    between = spread[np.unique(np.linspace(0, len(spread) - 1, third).astype(int))]
    pool = np.concatenate([certain[: count - 2 * third], doubtful[:third], between, certain])
    places = pool["shard"].astype(np.int64) << 32 | pool["row"]
    first = np.sort(np.unique(places, return_index=True)[1])[:count]
    chosen: _Candidates = pool[first]
    return chosen[np.lexsort((chosen["tie"], -chosen["probability"]))]


def _read_rows(plan: Plan, places: Sequence[_Place]) -> dict[_Place, dict[str, Any]]:
    """The result rows at these places."""
    by_shard: dict[int, list[int]] = {}
    for shard, row in places:
        by_shard.setdefault(shard, []).append(row)

    def read(shard: int) -> list[tuple[_Place, dict[str, Any]]]:
        columns = ["uri", "scores", "width", "height", "format", "size", "error_detail"]
        wanted = by_shard[shard]
        rows = part_files.read_part(plan, shard, columns).take(wanted).to_pylist()
        return [((shard, row), content) for row, content in zip(wanted, rows, strict=True)]

    return {
        place: content
        for part in _in_order(read, list(by_shard), _READ_THREADS)
        for place, content in part
    }


# --------------------------------------------------------------------------------------------
# Thumbnails


@dataclass(frozen=True)
class _Picture:
    """A thumbnail as a `data:` URI, its size in pixels, or why there is none."""

    data_uri: str | None
    width: int = 4
    height: int = 3
    trouble: str = ""


def _fetch_thumbnails(
    plan: Plan, run: dict[str, Any], places: list[_Place], observer: Observer
) -> dict[_Place, _Picture]:
    """Thumbnails of plan entries, read again from where they lie, decoded in child processes."""
    if not places:
        return {}
    observer.phase(f"fetching {len(places):,} thumbnails")
    pictures: dict[_Place, _Picture] = {}
    tables, wanted = [], []
    for shard in sorted({shard for shard, _ in places}):
        rows = [row for at, row in places if at == shard]
        entries = plan.read_shard(shard).take(rows)
        deep = pc.fill_null(pc.equal(entries["codec"], "tar.gz"), False).to_numpy() & (
            pc.fill_null(entries["offset"], 0).to_numpy() > _MAX_STREAM_OFFSET
        )
        for row in np.array(rows)[deep].tolist():
            pictures[shard, row] = _Picture(None, trouble="It lies deep inside a .tar.gz.")
        tables.append(entries.filter(pa.array(~deep)))
        wanted += [(shard, row) for row in np.array(rows)[~deep].tolist()]
    entries = pa.concat_tables(tables)
    question = run.get("question", {})
    decode_limits = _limits(DecodeLimits, question.get("decode_limits"))
    source_limits = dataclasses.replace(
        _limits(SourceLimits, question.get("source_limits")), bytes_in_flight=32 << 20
    )
    deadline = time.monotonic() + _THUMBNAILS_TIMEOUT_S
    workers = max(1, min(4, machine.usable_cpus(), math.ceil(len(wanted) / 16)))
    bounds = np.linspace(0, len(wanted), workers + 1).astype(int).tolist()

    def fetch(worker: int) -> list[_Picture]:
        start, stop = bounds[worker : worker + 2]
        return _decode_thumbnails(
            entries.slice(start, stop - start), decode_limits, source_limits, deadline
        )

    with ThreadPoolExecutor(workers, "catdog-thumbnails") as pool:
        fetched = [picture for part in pool.map(fetch, range(workers)) for picture in part]
    held = 0
    for place, picture in zip(wanted, fetched, strict=True):
        held += len(picture.data_uri or "")
        full = picture.data_uri is not None and held > _MAX_PICTURE_BYTES
        pictures[place] = _Picture(None, trouble="The page is full.") if full else picture
    return pictures


def _limits(kind: type[_T], recorded: Any) -> _T:
    """The limits that the job had: what it could decode, the report can."""
    try:
        return kind(**recorded)
    except TypeError:
        return kind()


def _decode_thumbnails(
    entries: pa.Table, decode_limits: DecodeLimits, source_limits: SourceLimits, deadline: float
) -> list[_Picture]:
    pictures: list[_Picture] = []
    trouble = "It could not be fetched in time."
    square = Preprocessing(height=_THUMBNAIL_PIXELS, width=_THUMBNAIL_PIXELS, resize="pad")
    try:
        with Decoder(square, decode_limits, source_limits, batch_size=8) as decoder:
            for batch in decoder.decode(entries):
                pictures += _encode(batch)
                if time.monotonic() > deadline:
                    break
    except (CatdogError, OSError) as error:  # the store is gone: the page is still worth having
        trouble = f"It could not be fetched: {error}"
    missing = entries.num_rows - len(pictures)
    return pictures + [_Picture(None, trouble=trouble)] * missing


def _encode(batch: DecodedBatch) -> Iterator[_Picture]:
    """The images of a batch as WebP, without the black that padded them to a square."""
    from PIL import Image

    side = _THUMBNAIL_PIXELS
    pixels = iter(batch.pixels)
    for outcome in batch.outcomes.to_pylist():
        if outcome["error"] is not None:
            yield _Picture(None, trouble=outcome["error_detail"] or outcome["error"])
            continue
        scale = side / max(outcome["width"], outcome["height"])
        width, height = (max(1, round(outcome[name] * scale)) for name in ("width", "height"))
        left, top = (side - width) // 2, (side - height) // 2
        cut = next(pixels)[top : top + height, left : left + width]
        encoded = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(cut)).save(
            encoded, "WEBP", quality=_THUMBNAIL_QUALITY, method=4
        )
        data = base64.b64encode(encoded.getvalue()).decode()
        yield _Picture(f"data:image/webp;base64,{data}", width, height)


# --------------------------------------------------------------------------------------------
# Plots: matplotlib draws, the page's style sheet colours

_ACCENT, _QUIET, _LINE, _INK = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_COLOURS = {
    _ACCENT: "var(--accent)",
    _QUIET: "var(--muted)",
    _LINE: "var(--line)",
    _INK: "var(--ink)",
}


@dataclass(frozen=True)
class _Plot:
    """An inline SVG; x values from `low` to `high` lie from `left` to `right` in its view box."""

    svg: Markup
    left: float
    right: float
    low: float
    high: float


class _Canvas:
    """Axes of a plot. Its units are those of the SVG's view box, about CSS pixels on a phone."""

    def __init__(self, width: float, height: float, low: float, high: float) -> None:
        from matplotlib.figure import Figure

        self._width, self._left, self._right = width, 44.0, width - 12
        self._low, self._high = low, high
        bottom, top = 28.0, height - 8
        self.figure: Figure = Figure(figsize=(width / 72, height / 72))
        self.axes = self.figure.add_axes(
            (
                self._left / width,
                bottom / height,
                (self._right - self._left) / width,
                (top - bottom) / height,
            )
        )
        self.axes.set_xlim(low, high)
        self.axes.set_axisbelow(True)
        self.axes.grid(axis="y", color=_LINE, linewidth=1)
        self.axes.tick_params(length=0, labelsize=11, labelcolor=_QUIET, pad=5)
        self.axes.tick_params(axis="x", pad=8)
        for side, spine in self.axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_LINE)

    def counts(self, most: float) -> None:
        """The y axis shows numbers of images up to `most`."""
        from matplotlib.ticker import EngFormatter, MaxNLocator

        self.axes.set_ylim(0, most * 1.08 or 1)
        self.axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        self.axes.yaxis.set_major_formatter(EngFormatter(sep=""))

    def roots(self, most: int) -> None:
        """The same by their square roots: the few doubtful ones are seen beside the many others."""
        from matplotlib.ticker import EngFormatter

        self.axes.set_yscale("function", functions=(np.sqrt, np.square))
        self.axes.set_ylim(0, most * 1.08 or 1)
        round_numbers = [k * 10**power for power in range(16) for k in (1, 2, 5)]
        ticks = {
            max((r for r in round_numbers if r <= most / part), default=0) for part in (1, 4, 25)
        }
        self.axes.set_yticks(sorted({0, *ticks}))
        self.axes.yaxis.set_major_formatter(EngFormatter(sep=""))

    def shares(self, axis: Any) -> None:
        """An axis shows percents."""
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    def plot(self, name: str) -> _Plot:
        """The finished plot; `name` makes its ids the only ones of their kind in the page."""
        return _Plot(_svg(self.figure, name), self._left, self._right, self._low, self._high)


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as markup without a header, metadata and unused ids."""
    from markupsafe import Markup
    from matplotlib import rc_context

    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: [^;\"]*;? ?", "", svg)  # the page's own
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))

    def rename(match: re.Match[str]) -> str:
        own = match[1]
        return f' id="{name}-{own}"' if own in used or own.startswith(("bar-", "mark")) else ""

    svg = re.sub(r' id="([^"]*)"', rename, svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    for sentinel, colour in _COLOURS.items():
        svg = svg.replace(sentinel, colour)
    return Markup(svg)  # noqa: S704 - drawn here from numbers alone


def _histogram_plot(
    counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], name: str
) -> _Plot:
    """Images by probability; bars `bar-0` and on, and a line `mark` at the left end."""
    canvas = _Canvas(420, 150, edges[0], edges[-1])
    bars = canvas.axes.bar(
        edges[:-1], counts, np.diff(edges) * 0.86, align="edge", color=_ACCENT, linewidth=0
    )
    for number, bar in enumerate(bars):
        bar.set_gid(f"bar-{number}")
    canvas.axes.axvline(edges[0], color=_INK, linewidth=1.5).set_gid("mark")
    canvas.roots(int(counts.max()))
    canvas.shares(canvas.axes.xaxis)
    return canvas.plot(name)


def _trust_plot(
    known: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    edges: npt.NDArray[np.float64],
    name: str,
) -> _Plot:
    """The share of right answers by probability, and where it would be were they the same."""
    canvas = _Canvas(420, 220, edges[0], edges[-1])
    some = known > 0
    middles = ((edges[:-1] + edges[1:]) / 2)[some]
    shares = right[some] / known[some]
    intervals = [
        evaluation.wilson_interval(successes, trials)
        for successes, trials in zip(right[some].tolist(), known[some].tolist(), strict=True)
    ]
    canvas.axes.plot(edges, edges, color=_QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
    canvas.axes.vlines(middles, *np.transpose(intervals), color=_ACCENT, linewidth=6, alpha=0.2)
    # No line from dot to dot: it would be seen most where there is least to see.
    sizes = 14 + 130 * known[some] / known.sum()
    canvas.axes.scatter(middles, shares, sizes, color=_ACCENT, linewidth=0, clip_on=False, zorder=3)
    canvas.axes.set_ylim(0, 1.02)
    canvas.shares(canvas.axes.xaxis)
    canvas.shares(canvas.axes.yaxis)
    return canvas.plot(name)


def _curves_plot(
    lines: Sequence[tuple[Sequence[float], Sequence[float]]], coloured: int, name: str
) -> _Plot:
    """Curves from 0 to 1, quiet ones behind the coloured one; of ROC curves also that of chance."""
    canvas = _Canvas(420, 260, -0.01, 1.01)
    if name == "roc_auc":
        canvas.axes.plot((0, 1), (0, 1), color=_QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
    for number, (x, y) in enumerate(lines):
        if number != coloured:
            canvas.axes.plot(x, y, color=_QUIET, linewidth=1.2)
    canvas.axes.plot(*lines[coloured], color=_ACCENT, linewidth=2)
    canvas.axes.set_ylim(0, 1.02)
    canvas.shares(canvas.axes.xaxis)
    canvas.shares(canvas.axes.yaxis)
    return canvas.plot(name)


@dataclass(frozen=True)
class _Speed:
    """Throughput over the time that workers worked.

    Attributes:
        edges_s: seconds of work at which the bins start and end.
        images_per_s: of each bin.
        stops_s: seconds of work at which the job stood still before it went on.
    """

    edges_s: npt.NDArray[np.float64]
    images_per_s: npt.NDArray[np.float64]
    stops_s: list[float]


def _speed(timings: Sequence[_Timing]) -> _Speed | None:
    """Throughput from when each part file was begun and done; None for too few of them."""
    if len(timings) < 3:
        return None
    timings = sorted(timings, key=lambda timing: timing.ended_at)
    ends = np.array([timing.ended_at for timing in timings])
    # Where only the end is known, a part took the time since the one before.
    before = np.r_[ends[0], ends[:-1]]
    starts = np.array(
        [
            before[number] if timing.started_at is None else timing.started_at
            for number, timing in enumerate(timings)
        ]
    )
    starts = np.minimum(starts, ends - 1e-3)
    images = np.array([timing.images for timing in timings], np.float64)
    # Time in which nobody worked (between a kill and the next run) is cut out.
    order = np.argsort(starts)
    begun, reached = starts[order], np.maximum.accumulate(ends[order])
    idle = np.r_[0.0, np.where(begun[1:] - reached[:-1] > 2, begun[1:] - reached[:-1], 0)]
    lost, at = np.cumsum(idle), begun

    def worked(moment: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        passed = np.maximum(np.searchsorted(at, moment, side="right") - 1, 0)
        cut: npt.NDArray[np.float64] = moment - at[0] - lost[passed]
        return cut

    first, last = worked(starts), worked(ends)
    bins = int(np.clip(len(timings), 6, 60))
    edges = np.linspace(0, last.max(), bins + 1)
    done = np.array(
        [(images * np.clip((edge - first) / (last - first), 0, 1)).sum() for edge in edges]
    )
    return _Speed(edges, np.diff(done) / np.diff(edges), worked(begun[idle > 0]).tolist())


def _speed_plot(speed: _Speed, name: str) -> tuple[_Plot, str]:
    """The plot, and the unit of its time."""
    total = float(speed.edges_s[-1])
    unit, divisor = next(
        (unit, size)
        for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if total >= 2 * size or size == 1
    )
    canvas = _Canvas(420, 190, 0, total / divisor)
    edges = speed.edges_s / divisor
    canvas.axes.stairs(speed.images_per_s, edges, fill=True, color=_ACCENT, alpha=0.18, linewidth=0)
    canvas.axes.stairs(speed.images_per_s, edges, color=_ACCENT, linewidth=2)
    for stop in speed.stops_s:
        canvas.axes.axvline(stop / divisor, color=_INK, linewidth=1, linestyle=(0, (3, 3)))
    canvas.counts(float(speed.images_per_s.max()))
    return canvas.plot(name), unit


# --------------------------------------------------------------------------------------------
# The page


class _Page:
    """Puts the page together."""

    def __init__(
        self,
        config: ReportConfig,
        plan: Plan,
        run: dict[str, Any],
        summary: dict[str, Any] | None,
        evaluated: Evaluation | None,
        tally: _Tally,
        chosen: _Chosen,
        rows: dict[_Place, dict[str, Any]],
        pictures: dict[_Place, _Picture],
    ) -> None:
        self._config, self._plan, self._run, self._summary = config, plan, run, summary
        self._evaluated = evaluated
        self._tally, self._chosen, self._rows, self._pictures = tally, chosen, rows, pictures
        by_label = tally.histogram.sum(axis=1)
        self._order = [int(label) for label in np.argsort(-by_label, kind="stable")]
        width = 0.01 if len(tally.labels) <= 2 else 0.02
        low = math.floor(10 / max(len(tally.labels), 1)) / 10
        self._edges = np.linspace(low, 1, round((1 - low) / width) + 1)

    def render(self) -> str:
        """The whole page."""
        import jinja2
        from markupsafe import Markup

        folder = Path(__file__).with_name("templates")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(
            shown=shown,
            number=_number,
            images=_images,
            percent=_percent,
            size=_size,
            duration=_duration,
            moment=_moment,
        )
        script = (folder / "report.js").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return environment.get_template("report.html.j2").render(
            style=Markup((folder / "report.css").read_text("utf-8")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_digest=digest,
            **self._content(),
        )

    def _content(self) -> dict[str, Any]:
        tally = self._tally
        labels, others = self._order[:_SHOWN_LABELS], self._order[_SHOWN_LABELS:]
        run, summary = self._run, self._summary or {}
        timings = tally.timings
        speed = _speed(timings)
        speed_plot = _speed_plot(speed, "speed") if speed is not None else None
        return {
            "title": _title(tally, self._plan, self._evaluated),
            "evaluated": self._measured(self._evaluated) if self._evaluated else None,
            "complete": tally.images == self._plan.images,
            "planned": self._plan.images,
            "tally": tally,
            "summary": summary,
            "run": run,
            "started_at": run.get("started_at"),
            "name": self._plan.output,
            "label_rows": [self._label_row(number, label) for number, label in enumerate(labels)],
            "other_labels": len(others),
            "other_images": int(tally.histogram[others].sum()) if others else 0,
            "start_count": int(tally.histogram[:, : tally.start].sum()),
            "galleries": [
                {
                    "label": tally.labels[label],
                    "number": self._order.index(label),
                    "images": int(tally.histogram[label].sum()),
                    "items": [self._item(row) for row in rows],
                }
                for label, rows in self._chosen.galleries.items()
                if len(rows)
            ],
            "distributions": [
                self._distribution(number, label)
                for number, label in enumerate(self._order[:12])
                if tally.histogram[label].any()
            ],
            "truth": self._truth() if tally.right_share is not None else None,
            "rejected": [self._reason(code, rows) for code, rows in self._sorted_reasons()],
            "query": f"select uri, error, error_detail from '{self._parts()}' where error is not null",  # noqa: S608
            "speed": speed,
            "speed_plot": speed_plot[0] if speed_plot else None,
            "speed_unit": speed_plot[1] if speed_plot else "",
            "exact_times": all(timing.started_at is not None for timing in timings),
            "stages": self._stages(),
            "formats": tally.formats.most_common(8),
            "provenance": self._provenance(),
            "limits": _flat(run.get("question", {})),
            "data": {
                # The shortest decimals that are these float32: what compares equal in a browser.
                "thresholds": [float(str(edge)) for edge in tally.thresholds],
                "start": tally.start,
                "labels": [
                    {
                        "name": shown(tally.labels[label]),
                        "counts": tally.histogram[label].tolist(),
                    }
                    for label in labels
                ],
                "others": tally.histogram[others].sum(axis=0).tolist() if others else None,
                "right": tally.right.sum(axis=0).tolist() if tally.truth else None,
                "known": tally.known.sum(axis=0).tolist() if tally.truth else None,
            },
        }

    def _parts(self) -> str:
        """What DuckDB is to read."""
        uri = storage.join(self._plan.output, "part-*.parquet")
        return (storage.local_path(uri) if storage.is_local(uri) else uri).replace("'", "''")

    def _label_row(self, number: int, label: int) -> dict[str, Any]:
        counts = self._tally.histogram[label]
        return {
            "number": number,
            "label": self._tally.labels[label],
            "all": int(counts.sum()),
            "count": int(counts[self._tally.start :].sum()),
        }

    def _item(self, candidate: Any) -> dict[str, Any]:
        """A picture with what is known about it."""
        place = int(candidate["shard"]), int(candidate["row"])
        tally, row = self._tally, self._rows[place]
        picture = self._pictures.get(place, _Picture(None, trouble="No picture was asked for."))
        truth = int(candidate["truth"])
        scores = sorted(
            zip(row["scores"] or [], tally.labels, strict=False), key=lambda pair: -pair[0]
        )
        return {
            "uri": row["uri"],
            "file": _file_name(row["uri"]),
            "label": tally.labels[int(candidate["label"])],
            "truth": tally.labels[truth] if truth >= 0 else None,
            "wrong": truth >= 0 and truth != int(candidate["label"]),
            "probability": float(candidate["probability"]),
            "picture": picture,
            "about": {
                "uri": shown(row["uri"]),
                "scores": [[shown(label), round(score, 6)] for score, label in scores[:5]],
                "truth": shown(tally.labels[truth]) if truth >= 0 else None,
                "image": f"{row['width']} x {row['height']} pixels, {row['format']}, "
                f"{_size(row['size'])}",
                "trouble": shown(picture.trouble),
            },
        }

    def _distribution(self, number: int, label: int) -> dict[str, Any]:
        starts = self._tally.thresholds.astype(np.float64)
        # Probabilities are at most 1; what lies in the bin of 1 belongs to the last bar.
        bars = np.searchsorted(self._edges, starts + 1e-6, side="right") - 1
        bars = np.clip(bars, 0, len(self._edges) - 2)
        counts = np.bincount(
            bars, self._tally.histogram[label], minlength=len(self._edges) - 1
        ).astype(np.int64)
        tens = _coarse(self._edges, counts)
        return {
            "number": number,
            "label": self._tally.labels[label],
            "images": int(counts.sum()),
            "plot": _histogram_plot(counts, self._edges, f"d{number}"),
            "table": tens,
        }

    def _truth(self) -> dict[str, Any]:
        tally = self._tally
        support, predicted = tally.confusion.sum(axis=1), tally.confusion.sum(axis=0)
        hits = np.diag(tally.confusion)
        order = [int(i) for i in np.argsort(-support, kind="stable") if support[i] or predicted[i]]
        matrix = sorted(order[:_MATRIX_LABELS])
        wrong = tally.confusion.copy()
        np.fill_diagonal(wrong, 0)
        pairs = [
            (int(pair // len(support)), int(pair % len(support)))
            for pair in np.argsort(-wrong, axis=None, kind="stable")[:20]
        ]
        starts = tally.thresholds.astype(np.float64)
        edges = np.linspace(self._edges[0], 1, 11)
        bins = np.clip(np.searchsorted(edges, starts + 1e-6, side="right") - 1, 0, 9)
        known = np.bincount(bins, tally.known.sum(axis=0), minlength=10).astype(np.int64)
        right = np.bincount(bins, tally.right.sum(axis=0), minlength=10).astype(np.int64)
        return {
            "source": tally.truth,
            "known": int(tally.known.sum()),
            "right": int(tally.right.sum()),
            "matrix_labels": [tally.labels[i] for i in matrix],
            "matrix": [
                {
                    "label": tally.labels[i],
                    "total": int(support[i]),
                    "cells": [
                        {
                            "count": int(tally.confusion[i, j]),
                            "share": float(tally.confusion[i, j] / max(support[i], 1)),
                            "right": i == j,
                        }
                        for j in matrix
                    ],
                    "others": int(support[i] - tally.confusion[i, matrix].sum()),
                }
                for i in matrix
            ],
            "more": len(order) - len(matrix),
            "classes": [
                {
                    "label": tally.labels[i],
                    "images": int(support[i]),
                    "recall": float(hits[i] / support[i]) if support[i] else None,
                    "precision": float(hits[i] / predicted[i]) if predicted[i] else None,
                }
                for i in order[:_SHOWN_LABELS]
            ],
            "pairs": [
                {"truth": tally.labels[i], "label": tally.labels[j], "count": int(wrong[i, j])}
                for i, j in pairs
                if wrong[i, j]
            ],
            "trust_plot": _trust_plot(known, right, edges, "trust"),
            "trust": [
                {
                    "low": float(edges[i]),
                    "high": float(edges[i + 1]),
                    "images": int(known[i]),
                    "share": float(right[i] / known[i]) if known[i] else None,
                }
                for i in range(10)
            ],
            "mistakes": [self._item(row) for row in self._chosen.mistakes],
            "wrong": int(tally.known.sum() - tally.right.sum()),
        }

    def _measured(self, evaluated: Evaluation) -> dict[str, Any]:
        """What an evaluation knows beyond the counts: curves, their areas, thresholds."""
        classes = evaluated.classes
        drawn = evaluation.drawn_classes(evaluated)

        def plot(labels: Sequence[str], x: str, y: str, area: str) -> dict[str, Any] | None:
            if not labels:
                return None
            worst = min(labels, key=lambda label: classes[label][area] or 0.0)
            lines = [(evaluated.curves[label][x], evaluated.curves[label][y]) for label in labels]
            return {
                "plot": _curves_plot(lines, labels.index(worst), area),
                "label": worst,
                "area": classes[worst][area],
                "of": len(labels),
            }

        # Of two classes, the one's ROC curve is the other's mirror image.
        of_roc = [label for label in drawn if label != evaluated.labels[0] or len(classes) > 2]
        largest = list(classes)
        if len(classes) > _MATRIX_LABELS:
            largest.sort(key=lambda label: -(classes[label]["images"] or 0))
        return {
            "all": evaluated,
            "plots": {
                "roc": plot(of_roc, "false_positive_rate", "true_positive_rate", "roc_auc"),
                "recall": plot(drawn, "recall", "precision", "average_precision"),
            },
            "classes": [{"label": label, **classes[label]} for label in largest[:_SHOWN_LABELS]],
        }

    def _sorted_reasons(self) -> list[tuple[str, _Candidates]]:
        return [
            (code, self._chosen.rejected.get(code, np.empty(0, _CANDIDATE)))
            for code, _ in self._tally.errors.most_common()
        ]

    def _reason(self, code: str, candidates: _Candidates) -> dict[str, Any]:
        places = sorted(zip(candidates["shard"].tolist(), candidates["row"].tolist(), strict=True))
        return {
            "code": code,
            "meaning": _MEANINGS.get(code, ""),
            "count": self._tally.errors[code],
            "files": [
                {"uri": self._rows[place]["uri"], "detail": self._rows[place]["error_detail"]}
                for place in places
            ],
        }

    def _stages(self) -> list[dict[str, Any]]:
        """Seconds of all workers by stage: of all part files if they tell, else of the last run."""
        totals = Counter[str]()
        told = [timing for timing in self._tally.timings if timing.stages_s]
        images = sum(timing.images for timing in told)
        for timing in told:
            totals.update(timing.stages_s)
        if not images:
            summary = self._summary or {}
            totals, images = Counter(summary.get("stages_s", {})), summary.get("images_this_run", 0)
        all_s = sum(totals.values())
        if not all_s or not images:
            return []
        return [
            {
                "stage": stage,
                "meaning": _STAGES.get(stage, ""),
                "seconds": seconds,
                "share": seconds / all_s,
                "ms": 1000 * seconds / images,
            }
            for stage, seconds in totals.most_common()
        ]

    def _provenance(self) -> list[tuple[str, list[str]]]:
        run, tally = self._run, self._tally
        question, config = run.get("question", {}), run.get("config", {})
        fingerprint = str(question.get("model", ""))
        minimum = tally.min_probability
        pairs: list[tuple[str, Sequence[Any]]] = [
            ("Results", [self._plan.output]),
            ("Images from", _first(question.get("images", []), 20)),
            ("Part of the model's data", [question.get("part")]),
            ("Started", [_moment(run["started_at"])] if "started_at" in run else []),
            ("Model", [config.get("model") or "the one that ships with catdog", fingerprint]),
            *_about_model(config.get("model"), fingerprint),
            ("Classes", [", ".join(_first(tally.labels, 40))]),
            ("Precision", [(self._summary or {}).get("precision")]),
            (
                "Least probability",
                [f"{minimum:g}: below it the label is “uncertain”"] * (minimum > 0),
            ),
            ("Versions", [f"catdog {run.get('catdog', '?')}, Python {run.get('python', '?')}"]),
            (
                "Plan",
                [
                    f"{self._plan.images:,} images in {self._plan.shards:,} shards",
                    self._plan.identifier,
                ],
            ),
        ]
        return [
            (name, [str(value) for value in values if value not in (None, "")])
            for name, values in pairs
            if any(value not in (None, "") for value in values)
        ]


_MEANINGS: dict[str, str] = {
    ErrorCode.MISSING: "Listed, but gone when it was to be read.",
    ErrorCode.FORBIDDEN: "Access was refused.",
    ErrorCode.UNREADABLE: "The bytes could not be fetched.",
    ErrorCode.EMPTY: "Nothing in the file.",
    ErrorCode.NOT_AN_IMAGE: "Something else under the name of an image.",
    ErrorCode.TRUNCATED: "Damaged, or cut off.",
    ErrorCode.UNSUPPORTED: "A format, or a kind of it, that is not decoded.",
    ErrorCode.TOO_LARGE: "Beyond a limit on pixels, bytes or memory.",
    ErrorCode.CRASHED: "It ended the process that decoded it; the job went on.",
    ErrorCode.TIMEOUT: "Decoding took too long; the job went on.",
}
_STAGES = {
    "read": "waiting for bytes",
    "decode": "bytes to pixels",
    "predict": "pixels to scores",
    "write": "rows to Parquet",
}


def _title(tally: _Tally, plan: Plan, evaluated: Evaluation | None) -> str:
    if evaluated is not None:
        return f"{_percent(evaluated.accuracy)} of {_images(evaluated.images)} right"
    done, of = tally.classified, plan.images
    return f"{_images(of)} classified" if done == of else f"{done:,} of {_images(of)} classified"


def _coarse(
    edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> list[tuple[float, float, int]]:
    """Counts by steps of a tenth, or half of one: what a table can show."""
    step = max(1, len(counts) // 10)
    return [
        (float(edges[i]), float(edges[min(i + step, len(counts))]), int(counts[i : i + step].sum()))
        for i in range(0, len(counts), step)
    ]


def _about_model(recorded: Any, fingerprint: str) -> list[tuple[str, list[Any]]]:
    """What the model's folder says, if it is still there and still the same."""
    if not isinstance(recorded, str):
        return []
    try:
        uri = storage.to_uri(recorded)
        for folder in (storage.join(uri, folders.RUN_SUBFOLDER), uri):
            where = storage.join(folder, folders.METADATA_FILE)
            if storage.exists(where):
                text = storage.read_bytes(where, 1 << 26)
                metadata = folders.ModelMetadata.from_json(text)
                break
        else:
            return []
    except (OSError, ValueError, CatdogError):
        return []
    if metadata.fingerprint != fingerprint:
        return []
    pixels = metadata.preprocessing
    accuracy = metadata.training.get("best", {}).get("val_accuracy")
    return [
        ("Architecture", [metadata.architecture]),
        ("Input", [f"{pixels.width} x {pixels.height} pixels, {pixels.resize}"]),
        ("Validation accuracy", [f"{accuracy:.1%}" if isinstance(accuracy, float) else None]),
    ]


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names with dots, and values, of what is nested; lists and long names left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            pairs.append((prefix + name, f"{value:,}" if isinstance(value, int) else f"{value:g}"))
    return pairs


def _first(items: Sequence[str], count: int) -> list[str]:
    rest = len(items) - count
    return [*items[:count], *([f"and {rest:,} more"] if rest > 0 else [])]


def shown(text: Any) -> str:
    """Text in which characters that hide or turn others around are spelled out, as `<U+202E>`."""
    return "".join(
        c
        if c.isprintable()
        else f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{ord(c):04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"
        for c in str(text)
    )


def _file_name(uri: str) -> str:
    """The last part of a URI's path, in an archive that of the member."""
    scheme, separator, rest = uri.partition("://")
    member = rest.split("::")[0] if separator and scheme not in ("file", "s3") else rest
    return (member or uri).rstrip("/").rpartition("/")[2] or uri


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _images(count: int) -> str:
    return f"{count:,} image" if count == 1 else f"{count:,} images"


def _percent(share: float, digits: int = 1) -> str:
    """A share in percent; what is not all or nothing is not rounded to it."""
    text = f"{share:.{digits}%}"
    least = 10**-digits
    if share < 1 and text == f"{1:.{digits}%}":
        return f"{(100 - least):.{digits}f}%"
    if share > 0 and text == f"{0:.{digits}%}":
        return f"<{least:g}%"
    return text


def _size(count: float | None) -> str:
    """A number of bytes as people write it."""
    if count is None:
        return "size unknown"
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"


def _moment(stamp: str) -> str:
    """`2026-11-22T15:57:57Z` for people."""
    return stamp.replace("T", " ").replace("Z", " UTC")


def _duration(seconds: float) -> str:
    from catdog import terminal

    return terminal.duration(seconds)
