"""The differences between two results of the same images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class McNemar:
    """McNemar's test, over the images of which exactly one of two results is right.

    Attributes:
        known: number of images with a known class that both results classified.
        only_this: number of images of which only this one is right.
        only_other: number of images of which only the other one is right.
        p: p-value of the exact two-sided test (McNemar 1947) that both are equally good.
    """

    known: int
    only_this: int
    only_other: int
    p: float


@dataclass(frozen=True)
class Change:
    """The number of images with the label `before` in the other results and `after` in these."""

    before: str
    after: str
    images: int


@dataclass(frozen=True)
class Comparison:
    """The differences from other results.

    Attributes:
        output: URI of the other results.
        common: number of images in both.
        only_this: number of images only in these results.
        only_other: number of images only in the others.
        changed: number of images in both with another label, or rejected in one of them.
        changes: the most frequent changes; `rejected` stands for no label.
        mcnemar: McNemar's test if true classes are known, else None.
    """

    output: str
    common: int
    only_this: int
    only_other: int
    changed: int
    changes: tuple[Change, ...]
    mcnemar: McNemar | None
