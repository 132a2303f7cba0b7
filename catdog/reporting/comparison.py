"""What is different between two results of the same images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class McNemar:
    """Images whose true class is known: where one of the two results is right, the other wrong.

    Attributes:
        known: images of a known class that both results classified.
        only_this: this one is right.
        only_other: the other one is.
        p: of the exact two-sided test (McNemar 1947) that both are as good as each other.
    """

    known: int
    only_this: int
    only_other: int
    p: float


@dataclass(frozen=True)
class Change:
    """So many images that had the label `before` in the other results have `after` in these."""

    before: str
    after: str
    images: int


@dataclass(frozen=True)
class Comparison:
    """What is different from the other results.

    Attributes:
        output: URI of the other results.
        common: images of both.
        only_this: images that only these results have.
        only_other: images that only the others have.
        changed: images of both with another label, or rejected in one of them.
        changes: the most frequent ones; `rejected` stands for no label.
        mcnemar: where true classes are known, else None.
    """

    output: str
    common: int
    only_this: int
    only_other: int
    changed: int
    changes: tuple[Change, ...]
    mcnemar: McNemar | None
