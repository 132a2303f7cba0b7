"""The figures of an evaluation as one picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.evaluation.metrics import DRAWN_CLASSES, drawn_classes, wilson_interval

if TYPE_CHECKING:
    from catdog.evaluation.metrics import Evaluation


def draw(evaluation: Evaluation) -> bytes:
    """Confusion matrix, ROC and precision-recall curves, reliability, as one PNG.

    Where images may have several classes, the curves alone.
    """
    from matplotlib.figure import Figure

    single = evaluation.multi_label is None
    figure = Figure(figsize=(11, 9 if single else 4.5), layout="constrained")
    if single:
        (matrix_axes, roc_axes), (recall_axes, reliability_axes) = figure.subplots(2, 2)
        _draw_matrix(evaluation, matrix_axes)
        _draw_reliability(evaluation, reliability_axes)
    else:
        roc_axes, recall_axes = figure.subplots(1, 2)
    for label in drawn_classes(evaluation):
        curves, numbers = evaluation.curves[label], evaluation.classes[label]
        roc_axes.plot(
            curves["false_positive_rate"],
            curves["true_positive_rate"],
            label=f"{label}: area {numbers['roc_auc']:.3f}",
        )
        recall_axes.plot(
            curves["recall"],
            curves["precision"],
            label=f"{label}: average precision {numbers['average_precision']:.3f}",
        )
    roc_axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    roc_axes.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
    recall_axes.set(title="precision and recall", xlabel="recall", ylabel="precision")
    for axes in (roc_axes, recall_axes):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left" if axes is recall_axes else "lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_matrix(evaluation: Evaluation, axes: Any) -> None:
    from sklearn.metrics import ConfusionMatrixDisplay

    few = len(evaluation.labels) <= DRAWN_CLASSES
    ConfusionMatrixDisplay(
        np.array(evaluation.confusion), display_labels=evaluation.labels if few else None
    ).plot(ax=axes, cmap="Blues", colorbar=False, include_values=few)
    axes.set(title="confusion matrix")
    if not few:
        axes.set(xticks=[], yticks=[])


def _draw_reliability(evaluation: Evaluation, axes: Any) -> None:
    bins = evaluation.reliability
    intervals = [wilson_interval(round(b["right"] * b["images"]), int(b["images"])) for b in bins]
    at = [each["probability"] for each in bins]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.vlines(at, *zip(*intervals, strict=True), alpha=0.4)
    axes.plot(at, [each["right"] for each in bins], marker="o")
    axes.set(
        title=f"reliability: calibration error {evaluation.ece or 0:.3f}",
        xlabel="probability",
        ylabel="fraction that is right, with its 95 % interval",
        xlim=(1 / len(evaluation.labels), 1.01),
        ylim=(0, 1.02),
    )
