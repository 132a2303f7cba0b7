"""The numbers of the page, computed once; the page and `--json` read them here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.reporting.counting import bar_edges
from catdog.reporting.throughput import throughput

if TYPE_CHECKING:
    import numpy.typing as npt

    from catdog.evaluation import Evaluation
    from catdog.reporting.counting import Tally, Timing
    from catdog.reporting.throughput import Speed

_TRUST_BINS = 10


@dataclass(frozen=True)
class TrustBin:
    """The share of right labels among the images with a probability from `low` to `high`."""

    low: float
    high: float
    images: int
    share: float | None


@dataclass(frozen=True)
class Truth:
    """How many labels are right, over the images whose true class is known.

    Attributes:
        source: where the true class comes from, `label` or `folder`.
        confusion: counts by true and by best class, int64 (classes, classes).
        accuracy: share of right labels.
        recall: recall of each class; None for a class without images.
        precision: precision of each class; None for a label that no image has.
        trust: the share of right labels by probability.
    """

    source: str
    confusion: npt.NDArray[np.int64]
    accuracy: float
    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    trust: tuple[TrustBin, ...]

    @property
    def known(self) -> int:
        """Images whose true class is known."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """Images whose label is their true class."""
        return int(np.trace(self.confusion))


@dataclass(frozen=True)
class Stage:
    """The workers' time in one stage: in all, as a share, and per image."""

    stage: str
    seconds: float
    share: float
    ms: float


@dataclass(frozen=True)
class Figures:
    """The numbers of the results.

    Attributes:
        labels: classes in the order of scores.
        order: numbers of the classes, the one with the most images first.
        planned: images of the job.
        images: rows that are there.
        bytes: of the images' files.
        errors: rejected rows by reason, the most frequent first.
        formats: images by format, likewise.
        min_probability: what the job asked for.
        thresholds: float32, ascending; bin `i` of a histogram starts at `thresholds[i]`.
        start: number of the threshold that is `min_probability`.
        histogram: int64 (classes, bins): classified images by their best class and probability.
        known: int64 (bins,): those whose true class is known; None where none are.
        right: int64 (bins,): those of them whose label is right.
        edges: float64, of the bars in the plots of probabilities.
        truth: how far the labels are right, or None.
        evaluated: what `evaluate` measured of these images, or None.
        speed: throughput over time, or None where too little is known.
        stages: where the workers' time went, the longest first.
        exact_times: whether the part files say when they were made.
    """

    labels: tuple[str, ...]
    order: tuple[int, ...]
    planned: int
    images: int
    bytes: int
    errors: dict[str, int]
    formats: dict[str, int]
    min_probability: float
    thresholds: npt.NDArray[np.float32]
    start: int
    histogram: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64] | None
    right: npt.NDArray[np.int64] | None
    edges: npt.NDArray[np.float64]
    truth: Truth | None
    evaluated: Evaluation | None
    speed: Speed | None
    stages: tuple[Stage, ...]
    exact_times: bool

    @property
    def rejected(self) -> int:
        """Rows without a label."""
        return sum(self.errors.values())

    @property
    def classified(self) -> int:
        """Rows with one."""
        return self.images - self.rejected

    @property
    def complete(self) -> bool:
        """Whether the job is finished."""
        return self.images == self.planned

    def bars(self, label: int) -> npt.NDArray[np.int64]:
        """int64 (edges - 1,): a class's images by probability, in the plots' bars."""
        return _rebinned(self.thresholds, self.histogram[label], self.edges)


def compute(
    tally: Tally, planned: int, summary: dict[str, Any], evaluated: Evaluation | None
) -> Figures:
    """Compute the numbers from the tally, or take them from the evaluation if there is one."""
    edges = bar_edges(len(tally.labels), several=tally.several)
    by_label = tally.histogram.sum(axis=1)
    if evaluated is not None and evaluated.images != tally.classified:
        evaluated = None  # rejected images were tried again since: its figures are of others
    return Figures(
        labels=tally.labels,
        order=tuple(np.argsort(-by_label, kind="stable").tolist()),
        planned=planned,
        images=tally.images,
        bytes=tally.bytes,
        errors=dict(tally.errors.most_common()),
        formats=dict(tally.formats.most_common()),
        min_probability=tally.min_probability,
        thresholds=tally.thresholds,
        start=tally.start,
        histogram=tally.histogram,
        known=tally.known.sum(axis=0) if tally.truth else None,
        right=tally.right.sum(axis=0) if tally.truth else None,
        edges=edges,
        truth=_truth(tally, edges, evaluated),
        evaluated=evaluated,
        speed=throughput(tally.timings),
        stages=_stages(tally.timings, summary),
        exact_times=all(timing.started_at is not None for timing in tally.timings),
    )


def _rebinned(
    thresholds: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    edges: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Counts by threshold as counts by bar; what lies outside is in the first or the last one."""
    bars = np.searchsorted(edges, thresholds.astype(np.float64) + 1e-6, side="right") - 1
    bars = np.clip(bars, 0, len(edges) - 2)
    return np.bincount(bars, counts, minlength=len(edges) - 1).astype(np.int64)


def _truth(
    tally: Tally, edges: npt.NDArray[np.float64], evaluated: Evaluation | None
) -> Truth | None:
    """The truth as an evaluation measured it, else as the tally has it."""
    if tally.truth is None or not tally.known.any():
        return None
    if evaluated is not None:
        return Truth(
            source=tally.truth,
            confusion=np.array(evaluated.confusion, np.int64),
            accuracy=evaluated.accuracy,
            recall=tuple(evaluated.classes[label]["recall"] for label in evaluated.labels),
            precision=tuple(evaluated.classes[label]["precision"] for label in evaluated.labels),
            trust=tuple(
                TrustBin(each["low"], each["high"], int(each["images"]), each["right"])
                for each in evaluated.reliability
            ),
        )
    confusion = tally.confusion
    hits, support, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    coarse = np.linspace(edges[0], 1, _TRUST_BINS + 1)
    known = _rebinned(tally.thresholds, tally.known.sum(axis=0), coarse).tolist()
    right = _rebinned(tally.thresholds, tally.right.sum(axis=0), coarse).tolist()
    return Truth(
        source=tally.truth,
        confusion=confusion,
        accuracy=float(hits.sum() / confusion.sum()),
        recall=_shares(hits, support),
        precision=_shares(hits, said),
        trust=tuple(
            TrustBin(float(low), float(high), images, of / images if images else None)
            for low, high, images, of in zip(coarse[:-1], coarse[1:], known, right, strict=True)
        ),
    )


def _shares(
    parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64]
) -> tuple[float | None, ...]:
    return tuple(
        part / whole if whole else None
        for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)
    )


def _stages(timings: list[Timing], summary: dict[str, Any]) -> tuple[Stage, ...]:
    """Seconds of all workers by stage: of all part files if they tell, else of the last run."""
    totals = Counter[str]()
    told = [timing for timing in timings if timing.stages_s]
    images = sum(timing.images for timing in told)
    for timing in told:
        totals.update(timing.stages_s)
    if not images:
        totals, images = Counter(summary.get("stages_s", {})), summary.get("images_this_run", 0)
    all_s = sum(totals.values())
    if not all_s or not images:
        return ()
    return tuple(
        Stage(stage, seconds, seconds / all_s, 1000 * seconds / images)
        for stage, seconds in totals.most_common()
    )
