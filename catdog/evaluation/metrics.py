"""Metrics of scores: thresholds, intervals, calibration, curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from catdog.errors import counted

_CALIBRATION_BINS = 15
_CURVE_POINTS = 100  # more than eyes can tell apart
DRAWN_CLASSES = 10  # the largest ones; more lines are a thicket


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; the content of `metrics.json`.

    Attributes:
        output: URI of the folder.
        model: fingerprint of the model.
        part: the part of the model's data that was evaluated; None for all images given.
        images: number of labelled images that were classified.
        rejected: number of labelled images that could not be decoded; they are not in the metrics.
        accuracy: fraction of the images whose label is right; for a multi-label model, whose labels
            are all right.
        accuracy_low: lower end of the accuracy's 95 % Wilson interval.
        accuracy_high: upper end of that interval.
        labels: the classes, in the order of the matrix.
        confusion: counts; rows are true classes, columns are predicted ones.
        classes: for each class precision, recall, F1, number of images, area under the ROC curve,
            average precision, and the lowest threshold of its score that gives the wanted
            precision, with the recall there.
        ece: expected calibration error of the label's probability, in 15 equal bins.
        log_loss: mean negative logarithm of the true class's probability.
        reliability: for each of those bins with images: its edges, the number of images, their mean
            probability, and the fraction that is right.
        precision_wanted: the fraction for which the thresholds were computed.
        threshold: the lowest `--min-probability` at which this fraction of the remaining labels is
            right; None if there is none.
        kept: fraction of the images that keep their label at that threshold.
        mistakes: URI, true label, label and probability of the most confident mistakes.
        curves: for each class at most 100 points of the ROC curve (`false_positive_rate`,
            `true_positive_rate`) and of the precision-recall curve (`recall`, `precision`).
        multi_label: for a multi-label model `mean_average_precision` (over the classes), and
            `micro_` and `macro_` `precision`, `recall` and `f1` at a score of 0.5; precision,
            recall and F1 in `classes` are then at 0.5, too. `confusion`, `reliability` and
            `mistakes` are empty, `ece`, `threshold` and `kept` are None, and `log_loss` is the mean
            over images and classes. Else None.
    """

    output: str
    model: str
    part: str | None
    images: int
    rejected: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    labels: tuple[str, ...]
    confusion: list[list[int]]
    classes: dict[str, dict[str, float | None]]
    ece: float | None
    log_loss: float
    reliability: list[dict[str, float]]
    precision_wanted: float
    threshold: float | None
    kept: float | None
    mistakes: list[dict[str, Any]]
    curves: dict[str, dict[str, list[float]]]
    multi_label: dict[str, float] | None = None


def of_class(one: Any, scores: Any, wanted: float) -> dict[str, float | None]:
    """The areas under a class's curves, its threshold for the `wanted` precision, the recall there.

    Args:
        one: whether an image belongs to the class, bool (n,).
        scores: the images' scores for the class, float32 (n,).
        wanted: precision, from 0 to 1.
    """
    from sklearn import metrics

    both = 0 < one.sum() < len(one)
    threshold = lowest_threshold(scores, one, wanted)
    return {
        "roc_auc": float(metrics.roc_auc_score(one, scores)) if both else None,
        "average_precision": float(metrics.average_precision_score(one, scores)) if both else None,
        "threshold": threshold,
        "threshold_recall": float((scores[one] >= threshold).mean())
        if threshold is not None
        else None,
    }


def label_thresholds(scores: Any, truth: Any, wanted: float) -> list[float | None]:
    """For each class, the lowest probability at which a `wanted` share of its labels is right.

    Args:
        scores: float32 (n, classes); an image has the label with the largest one.
        truth: class number, (n,).
        wanted: from 0 to 1.
    """
    said, confidence = scores.argmax(axis=1), scores.max(axis=1)
    return [
        lowest_threshold(confidence[said == number], truth[said == number] == number, wanted)
        for number in range(scores.shape[1])
    ]


def lowest_threshold(scores: Any, right: Any, wanted: float) -> float | None:
    """The lowest threshold, of four digits, at which a `wanted` share of the kept scores is right.

    Args:
        scores: float32 (n,); those at or above the threshold are kept.
        right: bool (n,).
        wanted: from 0 to 1.
    """
    order = np.argsort(scores, kind="stable")
    thresholds = np.arange(10_001) / 10_000
    below = np.searchsorted(scores[order], thresholds.astype(np.float32))
    kept = len(scores) - below
    right_kept = np.r_[np.cumsum(right[order][::-1])[::-1], 0][below]
    reached = thresholds[(kept > 0) & (right_kept / np.maximum(kept, 1) >= wanted)]
    return float(reached[0]) if len(reached) else None


def caution(result: Evaluation) -> str:
    """A sentence where too few labels are kept at the threshold to be sure of them; else empty.

    If all of n labels are right, 3 / n may still be wrong, with 95 % confidence (the rule of three).
    """
    kept, wrong = round((result.kept or 0) * result.images), 1 - result.precision_wanted
    if result.threshold is None or kept * wrong >= 3:
        return ""
    said = f"only {counted(kept, 'label')}"
    if wrong <= 0:
        return f"{said}, and no number of them is enough to be sure of 100%"
    needed = math.ceil(round(3 / wrong, 6))
    return f"{said}; to be sure of {100 * result.precision_wanted:g}% takes {needed:,} or more"


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def reliability(confidence: Any, right: Any) -> list[dict[str, float]]:
    """How often images are right, by their probability: the bins of `Evaluation.reliability`."""
    confidence = np.asarray(confidence, np.float64)
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    return [
        {
            "low": number / _CALIBRATION_BINS,
            "high": (number + 1) / _CALIBRATION_BINS,
            "images": int(inside.sum()),
            "probability": float(confidence[inside].mean()),
            "right": float(right[inside].mean()),
        }
        for number in np.unique(bins).tolist()
        for inside in [bins == number]
    ]


def calibration_error(confidence: Any, right: Any) -> float:
    """Expected calibration error: |accuracy - confidence| by bin, weighted (Guo et al. 2017)."""
    bins = reliability(confidence, right)
    off = sum(each["images"] * abs(each["right"] - each["probability"]) for each in bins)
    return off / len(right)


def curves(one: Any, scores: Any) -> dict[str, list[float]]:
    """The curves of a class against all others, thinned."""
    from sklearn import metrics

    false_positive, true_positive, _ = metrics.roc_curve(one, scores)
    precision, recall, _ = metrics.precision_recall_curve(one, scores, drop_intermediate=True)
    return {
        "false_positive_rate": _thinned(false_positive),
        "true_positive_rate": _thinned(true_positive),
        "recall": _thinned(recall),
        "precision": _thinned(precision),
    }


def _thinned(values: Any) -> list[float]:
    places = np.unique(np.linspace(0, len(values) - 1, _CURVE_POINTS).astype(int))
    thinned: list[float] = np.round(values[places].astype(np.float64), 5).tolist()
    return thinned


def drawn_classes(evaluation: Evaluation) -> list[str]:
    """The classes whose curves are drawn: the largest ones that have any, largest first."""
    images = {label: evaluation.classes[label]["images"] or 0 for label in evaluation.curves}
    return sorted(images, key=lambda label: -images[label])[:DRAWN_CLASSES]
