"""Two results of the same images side by side: what changed, and whether one is better.

Images are matched by URI, so the URIs of both results are held in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import UserInputError
from catdog.reporting.candidates import CANDIDATE, Best
from catdog.reporting.comparison import Change, Comparison, McNemar
from catdog.reporting.part_reader import READ_THREADS, in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from catdog.reporting.candidates import Candidates
    from catdog.reporting.part_reader import PartReader

_SHOWN_CHANGES = 20
_CHANGED_PICTURES = 24


@dataclass(frozen=True)
class Other:
    """The labels of other results.

    Attributes:
        output: URI of those results.
        labels: their classes.
        uris: the URIs of all their images.
        label: number of each image's best class, int32 (n,); -1 if rejected. -2 stands for images that
            they lack.
    """

    output: str
    labels: tuple[str, ...]
    uris: pa.Array
    label: npt.NDArray[np.int32]

    def numbers(self, uris: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """The number of the best class of each of these images, int32 (n,)."""
        at = pc.fill_null(
            pc.index_in(uris.cast(pa.large_string()), value_set=self.uris), -1
        ).to_numpy()
        return np.where(at >= 0, self.label[at], -2)


def read_other(reader: PartReader) -> Other:
    """Read the other results' label of each image.

    Raises:
        UserInputError: no image is done yet.
    """
    uris, labels = [], []
    for answers in in_order(
        lambda shard: reader.answers(shard, ["uri"]), reader.shards, READ_THREADS
    ):
        if answers is not None:
            uris += answers.table["uri"].chunks
            labels.append(np.where(answers.good, answers.label, -1))
    if not uris:
        raise UserInputError(f"--against {reader.plan.output}: no image is done yet")
    joined = pa.chunked_array(uris).cast(pa.large_string()).combine_chunks()
    return Other(
        reader.plan.output, reader.tally.labels, joined, np.concatenate(labels).astype(np.int32)
    )


def compare(reader: PartReader, other: Other) -> tuple[Comparison, Candidates]:
    """The differences, and the most certain of the changed images."""
    labels = reader.tally.labels
    names = (*labels, *(label for label in other.labels if label not in labels))
    # Numbers of the other's classes as those of these; the last two places are -2 and -1.
    renumbered = np.array([*map(names.index, other.labels), -2, -1], np.int32)
    best = Best(_CHANGED_PICTURES)
    changes = Counter[tuple[int, int]]()
    images = common = known = only_this = only_other = 0
    for shard, answers in zip(
        reader.shards,
        in_order(lambda shard: reader.answers(shard, ["uri"]), reader.shards, READ_THREADS),
        strict=True,
    ):
        if answers is None:
            continue
        before = renumbered[other.numbers(answers.table["uri"])]
        after, truth = np.where(answers.good, answers.label, -1), answers.truth
        both = before != -2
        images += len(after)
        common += int(both.sum())
        different = both & (before != after)
        pairs, counts = np.unique(
            np.column_stack([before, after])[different], axis=0, return_counts=True
        )
        for (old, new), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            changes[old, new] += count
        tested = both & (before >= 0) & (after >= 0) & (truth >= 0)
        known += int(tested.sum())
        only_this += int((tested & (after == truth) & (before != truth)).sum())
        only_other += int((tested & (before == truth) & (after != truth)).sum())
        best.add(best.prune(_candidates(shard, answers.probability, after, truth, different)))
    return (
        Comparison(
            output=other.output,
            common=common,
            only_this=images - common,
            only_other=len(other.label) - common,
            changed=changes.total(),
            changes=tuple(
                Change(_name(names, old), _name(names, new), count)
                for (old, new), count in changes.most_common(_SHOWN_CHANGES)
            ),
            mcnemar=_mcnemar(known, only_this, only_other),
        ),
        best.result(),
    )


def _candidates(
    shard: int,
    probability: npt.NDArray[np.float32],
    label: npt.NDArray[np.int32],
    truth: npt.NDArray[np.int32],
    chosen: npt.NDArray[np.bool_],
) -> Candidates:
    """The changed images that have a label now, the most certain first."""
    rows = np.zeros(len(label), CANDIDATE)
    rows["shard"], rows["row"] = shard, np.arange(len(label))
    rows["tie"] = np.random.default_rng(shard).random(len(label), np.float32)
    rows["label"], rows["truth"], rows["probability"] = label, truth, probability
    rows["key"] = -probability
    kept: Candidates = rows[chosen & (label >= 0)]
    return kept


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number >= 0 else "rejected"


def _mcnemar(known: int, only_this: int, only_other: int) -> McNemar | None:
    from scipy.stats import binomtest

    if not known:
        return None
    apart = only_this + only_other
    p = float(binomtest(only_this, apart).pvalue) if apart else 1.0
    return McNemar(known, only_this, only_other, p)
