"""Adds up part files, and keeps the candidates for the galleries.

Memory grows neither with the images nor with the files, since only sums and the best candidates of
each part are kept. The page's threshold slider uses the histograms.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from catdog.reporting.candidates import Best, Candidates

_STEPS = 200  # of the threshold, from 0 to 1


@dataclass(frozen=True)
class Timing:
    """When a part file was made (Unix seconds), and the worker's seconds in each stage."""

    images: int
    started_at: float | None
    ended_at: float
    stages_s: dict[str, float] = field(default_factory=dict)


@dataclass
class Tally:
    """The sums over the part files.

    Attributes:
        labels: classes in the order of scores.
        thresholds: float32, ascending; bin `i` of a histogram starts at `thresholds[i]`.
        min_probability: the job's flag; below it the label is `uncertain`.
        several: whether an image may have several classes.
        histogram: int64 (classes, bins): classified images by their best class and probability.
        right: int64 (classes, bins): those of them whose true class is the best one.
        known: int64 (classes, bins): those of them whose true class is known.
        confusion: int64 (classes, classes): by true and by best class.
        truth: where the true class comes from: `label`, `folder` or None.
    """

    labels: tuple[str, ...]
    thresholds: npt.NDArray[np.float32]
    min_probability: float
    several: bool
    truth: str | None
    certain: Best
    doubtful: Best
    spread: Best
    mistakes: Best
    bars: Best
    cells: Best
    sampled_rejected: Best
    images: int = 0
    shards: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    written_labels: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    timings: list[Timing] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (len(self.labels), len(self.thresholds))
        self.histogram = np.zeros(shape, np.int64)
        self.right = np.zeros(shape, np.int64)
        self.known = np.zeros(shape, np.int64)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)

    @property
    def rejected(self) -> int:
        """Rows without a label."""
        return sum(self.errors.values())

    @property
    def classified(self) -> int:
        """Rows with one."""
        return self.images - self.rejected

    @property
    def start(self) -> int:
        """Number of the threshold that the job itself used."""
        return int(np.searchsorted(self.thresholds, np.float32(self.min_probability)))

    def add(self, part: Part) -> None:
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
        self.bars.add(part.bars)
        self.cells.add(part.cells)
        self.sampled_rejected.add(part.rejected)


_Pairs = tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]  # flat index, count


@dataclass(frozen=True)
class Part:
    """What one part file adds to the tally."""

    images: int
    errors: Counter[str]
    labels: Counter[str]
    formats: Counter[str]
    bytes: int
    timings: list[Timing]
    histogram: _Pairs
    known: _Pairs
    right: _Pairs
    confusion: _Pairs
    certain: Candidates
    doubtful: Candidates
    spread: Candidates
    mistakes: Candidates
    bars: Candidates
    cells: Candidates
    rejected: Candidates


def thresholds(
    classes: int, others: Iterable[float], *, several: bool = False
) -> npt.NDArray[np.float32]:
    """Where a histogram's bins start: 0, then from chance upwards, and others of interest.

    Where an image may have `several` classes, its best probability may be below chance.
    """
    lowest = 0 if several else _STEPS // max(classes, 1)
    steps = {0.0, *others, *(k / _STEPS for k in range(lowest, _STEPS + 1))}
    # float32 as the probabilities are: 0.7 is to be on the same side as in `results.build_rows`.
    return np.unique(np.array(sorted(steps), np.float32))


def bar_edges(classes: int, *, several: bool = False) -> npt.NDArray[np.float64]:
    """Of the bars in the plots of probabilities, float64: from chance upwards, or as `thresholds`."""
    width = 0.01 if classes <= 2 and not several else 0.02
    low = 0.0 if several else math.floor(10 / max(classes, 1)) / 10
    return np.linspace(low, 1, round((1 - low) / width) + 1)
