"""Rows that may be shown: the best few of many, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np

# A row that may be shown. `key` orders the candidates of a group, smallest first; `tie` is random
# (but the same in every run), so that of a million images with probability 1 the shown ones come
# from all over the job.
CANDIDATE = np.dtype(
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
Candidates = np.ndarray[Any, np.dtype[np.void]]
Place = tuple[int, int]  # shard, row in it


class Best:
    """The candidates with the smallest keys of each group, `count` of each, in bounded memory."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: list[Candidates] = []
        self._rows = 0

    def prune(self, candidates: Candidates) -> Candidates:
        """Those of the candidates that are among the best, by group, best first."""
        if self.count == 0:
            return np.empty(0, CANDIDATE)
        order = np.lexsort((candidates["tie"], candidates["key"], candidates["group"]))
        ordered = candidates[order]
        group = ordered["group"]
        first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else group
        sizes = np.diff(np.r_[first, len(group)])
        rank = np.arange(len(group)) - np.repeat(first, sizes)
        kept: Candidates = ordered[rank < self.count]
        return kept

    def add(self, candidates: Candidates) -> None:
        """Take more candidates, pruned ones for preference."""
        self._held.append(candidates)
        self._rows += len(candidates)
        if self._rows > 100_000:
            self._held = [self.result()]
            self._rows = len(self._held[0])

    def result(self) -> Candidates:
        """The best of all, by group, best first."""
        return self.prune(np.concatenate([np.empty(0, CANDIDATE), *self._held]))

    def of(self, group: int) -> Candidates:
        """The best of one group, best first."""
        best = self.result()
        chosen: Candidates = best[best["group"] == group]
        return chosen
