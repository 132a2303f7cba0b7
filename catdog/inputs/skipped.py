"""Files that a listing skips, counted by kind."""

from __future__ import annotations

import threading
from collections import Counter


class Skips:
    """Counts of skipped files; several threads add to them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, count: int = 1) -> None:
        """Count this many more of a kind."""
        if count:
            with self._lock:
                self._counts[kind] += count

    def __reduce__(self) -> tuple[type[Skips], tuple[()]]:
        return (type(self), ())  # another process counts its own

    def counts(self) -> dict[str, int]:
        """How many of each kind, most first."""
        return dict(self._counts.most_common())

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in self._counts.most_common(5))
