"""Chooses the rows that the page shows from the candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.errors import ErrorCode
from catdog.reporting.candidates import CANDIDATE
from catdog.reporting.config import MAX_THUMBNAILS
from catdog.reporting.part_reader import READ_THREADS, in_order
from catdog.results import part_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from catdog.reporting.candidates import Candidates, Place
    from catdog.reporting.counting import Tally
    from catdog.results import Plan

_GALLERIES = 30
PLOTTED_LABELS = 12
MATRIX_LABELS = 12


@dataclass(frozen=True)
class Chosen:
    """The rows that are shown.

    Attributes:
        galleries: rows for each label, by the label's index, most certain first.
        mistakes: rows with a wrong label, most certain first.
        bars: rows for each bar of the plots of probabilities.
        cells: rows for each cell of the confusion matrix.
        rejected: rows for each reason.
        changed: rows with another label in the other results, most certain first.
    """

    galleries: dict[int, Candidates]
    mistakes: Candidates
    bars: Candidates
    cells: Candidates
    rejected: dict[str, Candidates]
    changed: Candidates = field(default_factory=lambda: np.empty(0, CANDIDATE))

    def pictured(self) -> list[Place]:
        """Places of the rows that are shown as pictures, each once, in the order of the plan."""
        return _places([*self.galleries.values(), self.mistakes, self.changed])

    def small(self) -> list[Place]:
        """Places of further rows that bars and cells open, each once, in the order of the plan."""
        return sorted({*_places([self.bars, self.cells])} - {*self.pictured()})

    def described(self) -> list[Place]:
        """Places of the rows that are shown in full, each once, in the order of the plan."""
        return _places(
            [*self.galleries.values(), self.mistakes, self.changed, *self.rejected.values()]
        )

    def pool(self) -> Candidates:
        """All rows with a picture, some more than once."""
        return np.concatenate(
            [*self.galleries.values(), self.mistakes, self.changed, self.bars, self.cells]
        )


def _places(groups: Iterable[Candidates]) -> list[Place]:
    return sorted(
        {
            (shard, row)
            for group in groups
            for shard, row in zip(group["shard"].tolist(), group["row"].tolist(), strict=True)
        }
    )


def choose(tally: Tally, thumbnails: int) -> Chosen:
    """Some rows of each label with images, of the mistakes and of each reason."""
    by_label = tally.histogram.sum(axis=1)
    shown = [int(label) for label in np.argsort(-by_label, kind="stable") if by_label[label]]
    shown = shown[:_GALLERIES]
    each = min(thumbnails, MAX_THUMBNAILS // max(1, len(shown) + bool(tally.truth)))
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
    return Chosen(
        galleries=galleries,
        mistakes=tally.mistakes.of(0)[:each],
        bars=_of_labels(tally.bars.result(), shown[:PLOTTED_LABELS], ("label",)),
        cells=_of_labels(tally.cells.result(), _largest(tally.confusion), ("label", "truth")),
        rejected={
            code.value: tally.sampled_rejected.of(number)
            for number, code in enumerate(ErrorCode)
            if tally.errors[code.value]
        },
    )


def _largest(confusion: npt.NDArray[np.int64]) -> list[int]:
    """The classes of the matrix that is shown."""
    images: list[int] = np.argsort(-confusion.sum(axis=1), kind="stable")[:MATRIX_LABELS].tolist()
    return images


def _of_labels(rows: Candidates, labels: Sequence[int], columns: Sequence[str]) -> Candidates:
    for column in columns:
        rows = rows[np.isin(rows[column], labels)]
    return rows


def _gallery(
    certain: Candidates, doubtful: Candidates, spread: Candidates, count: int
) -> Candidates:
    """A third the most certain rows, a third the least, the rest from between; most certain first."""
    third = count // 3 if len(spread) else 0
    between = spread[np.unique(np.linspace(0, len(spread) - 1, third).astype(int))]
    pool = np.concatenate([certain[: count - 2 * third], doubtful[:third], between, certain])
    places = pool["shard"].astype(np.int64) << 32 | pool["row"]
    first = np.sort(np.unique(places, return_index=True)[1])[:count]
    chosen: Candidates = pool[first]
    return chosen[np.lexsort((chosen["tie"], -chosen["probability"]))]


def read_rows(plan: Plan, places: Sequence[Place]) -> dict[Place, dict[str, Any]]:
    """The result rows at these places."""
    by_shard: dict[int, list[int]] = {}
    for shard, row in places:
        by_shard.setdefault(shard, []).append(row)

    def read(shard: int) -> list[tuple[Place, dict[str, Any]]]:
        columns = ["uri", "scores", "width", "height", "format", "size", "error_detail"]
        columns += [part_files.TOP_LABELS, part_files.TOP_PROBABILITIES]
        wanted = by_shard[shard]
        rows = part_files.read_part(plan, shard, columns).take(wanted).to_pylist()
        return [((shard, row), content) for row, content in zip(wanted, rows, strict=True)]

    return {
        place: content
        for part in in_order(read, list(by_shard), READ_THREADS)
        for place, content in part
    }
