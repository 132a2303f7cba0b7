"""Metrics of multi-label models, where an image may have several classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog import inputs
from catdog.evaluation.metrics import Evaluation, curves, of_class, wilson_interval
from catdog.model import MULTI_LABEL_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def unknown_label(column: pa.Array[Any], labels: Sequence[str]) -> pa.Array[Any]:
    """Which texts are missing, or name a class that is not among `labels`; bool (n,)."""
    known = set(labels)
    wrong = {
        text: text is None or not known.issuperset(inputs.classes_of(text))
        for text in column.unique().to_pylist()
    }
    return pa.array([wrong[text] for text in column.to_pylist()], pa.bool_())


def answers(column: pa.Array[Any], labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes each text names, bool (n, classes); a missing text names none."""
    place = {label: number for number, label in enumerate(labels)}
    has = np.zeros((len(column), len(labels)), np.bool_)
    for row, text in enumerate(column.to_pylist()):
        has[row, [place[each] for each in inputs.classes_of(text or "")]] = True
    return has


def measure(
    labels: tuple[str, ...],
    truth: NDArray[np.bool_],
    scores: NDArray[np.float32],
    wanted: float,
    **about: Any,
) -> Evaluation:
    """The `Evaluation` of a multi-label model.

    Args:
        labels: the classes in the order of the scores.
        truth: which classes each image has, (n, classes).
        scores: (n, classes).
        wanted: precision that the thresholds are for.
        about: `output`, `model`, `part` and `rejected` of the evaluation.
    """
    from sklearn import metrics

    said = scores >= MULTI_LABEL_THRESHOLD
    of_each, micro, macro = (
        metrics.precision_recall_fscore_support(truth, said, average=average, zero_division=0)
        for average in (None, "micro", "macro")
    )
    classes: dict[str, dict[str, float | None]] = {
        label: {
            "precision": float(of_each[0][number]),
            "recall": float(of_each[1][number]),
            "f1": float(of_each[2][number]),
            "images": int(of_each[3][number]),
            **of_class(truth[:, number], scores[:, number], wanted),
        }
        for number, label in enumerate(labels)
    }
    areas = [each["average_precision"] for each in classes.values()]
    known = [area for area in areas if area is not None]
    summed = {
        f"{name}_{what}": float(value)
        for name, values in (("micro", micro), ("macro", macro))
        for what, value in zip(("precision", "recall", "f1"), values[:3], strict=True)
    }
    right = (said == truth).all(axis=1)
    low, high = wilson_interval(int(right.sum()), len(right))
    likely = np.clip(np.where(truth, scores, 1 - scores).astype(np.float64), 1e-7, 1)
    return Evaluation(
        **about,
        images=len(truth),
        accuracy=float(right.mean()),
        accuracy_low=low,
        accuracy_high=high,
        labels=labels,
        confusion=[],
        classes=classes,
        ece=None,
        log_loss=float(-np.log(likely).mean()),
        reliability=[],
        precision_wanted=wanted,
        threshold=None,
        kept=None,
        mistakes=[],
        curves={
            label: curves(truth[:, number], scores[:, number])
            for number, label in enumerate(labels)
            if classes[label]["roc_auc"] is not None
        },
        multi_label={"mean_average_precision": float(np.mean(known)) if known else 0.0} | summed,
    )
