"""How good a model is on labelled images: a classify job, and what its table says.

The scores are those of `classify`, by the same code, so that what is measured is what users get.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import classification, models, plans, results, sources, storage
from catdog.classification import ClassifyConfig
from catdog.errors import CatdogError, UserInputError

if TYPE_CHECKING:
    from catdog.observer import Observer

METRICS_FILE = "metrics.json"
PLOTS_FILE = "plots.png"
RESULTS_FOLDER = "results"
_CALIBRATION_BINS = 15


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ClassifyConfig):
    """What to evaluate, on which labelled images.

    Attributes:
        precision_wanted: the lowest threshold is reported at which each class reaches it.
        mistakes: how many of the most confident mistakes are listed.
    """

    precision_wanted: float = 0.99
    mistakes: int = 50


@dataclass(frozen=True)
class Evaluation:
    """What came out; the content of `metrics.json`.

    Attributes:
        output: URI of the folder.
        model: fingerprint.
        part: the part of the model's data that was evaluated, or None for all images given.
        images: labelled images that were classified.
        rejected: labelled images that could not be decoded, left out of the metrics.
        accuracy: fraction of images whose label is right.
        accuracy_low: lower end of the accuracy's 95 % Wilson interval.
        accuracy_high: upper end.
        labels: the classes, in the order of the matrix.
        confusion: rows are true classes, columns are what the model said.
        classes: precision, recall, F1, images, area under the ROC curve, average precision and the
            threshold for the wanted precision, by class.
        ece: expected calibration error of the winning probability, in 15 equal bins.
        log_loss: mean negative log of the true class's probability.
        mistakes: URI, true label, label, probability of the most confident mistakes.
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
    ece: float
    log_loss: float
    mistakes: list[dict[str, Any]]


def evaluate(config: EvaluateConfig, observer: Observer | None = None) -> Evaluation:
    """Classify labelled images into `output/results` and measure; resumes as `classify` does.

    Raises:
        UserInputError: as `classify`, or the images' labels are not the model's.
        CatdogError: as `classify`, or no image could be decoded.
    """
    if config.min_probability:
        raise UserInputError("--min-probability: evaluation looks at every threshold; leave it out")
    output = storage.to_uri(config.output)
    fields = {field.name for field in dataclasses.fields(ClassifyConfig)}
    job = ClassifyConfig(**{name: getattr(config, name) for name in fields})
    job = dataclasses.replace(job, output=storage.join(output, RESULTS_FOLDER))
    labels = models.load(config.model).metadata.labels
    _check_labelled(job, labels)
    summary = classification.classify(job, observer)
    uris, truth, scores = _labelled_scores(summary.output, labels, config.images)
    evaluation = _measure(
        config, output, summary.model, labels, uris, truth, scores, summary.rejected
    )
    text = json.dumps(dataclasses.asdict(evaluation), indent=2, ensure_ascii=False) + "\n"
    storage.write_atomic(storage.join(output, PLOTS_FILE), _plots(labels, truth, scores))
    storage.write_atomic(storage.join(output, METRICS_FILE), text.encode("utf-8", "replace"))
    return evaluation


def _check_labelled(job: ClassifyConfig, labels: tuple[str, ...]) -> None:
    """Refuse images of which none is labelled with a class of the model, before any is read.

    Looks at the first 10,000; `_labelled_scores` looks at every one.
    """
    batches = sources.list_images(job.images, job.source_limits)
    with contextlib.closing(batches):  # type: ignore[type-var]
        first = next(batches, None)
    said = set(first["label"].to_pylist()) if first is not None else set(labels)
    if said & set(labels):
        return
    named = ", ".join(repr(label) for label in sorted(said - {None}))
    raise UserInputError(
        f"{' '.join(job.images)}: no image is labelled {' or '.join(labels)}, as the model's "
        f"classes are ({f'labels: {named}' if named else 'there are no labels'}); evaluation wants "
        "one folder per class, or a table with a label column"
    )


def _labelled_scores(
    output: str, labels: tuple[str, ...], images: tuple[str, ...]
) -> tuple[list[str], Any, Any]:
    """URIs, class numbers (n,) and scores (n, classes) of the classified images."""
    plan = plans.read(output)
    if plan is None:
        raise CatdogError(f"{output} holds no plan")
    numbers = {label: number for number, label in enumerate(labels)}
    uris: list[str] = []
    truth: list[int] = []
    scores: list[Any] = []
    for shard in range(plan.shards):
        wanted = plan.read_shard(shard)["label"].to_pylist()
        rows = results.read_part(plan, shard, ["uri", "scores"])
        for label, uri, score in zip(
            wanted, rows["uri"].to_pylist(), rows["scores"].to_pylist(), strict=True
        ):
            if label not in numbers:
                said = "has no label" if label is None else f"is labelled {label!r}"
                raise UserInputError(
                    f"{' '.join(images)}: {uri} {said}; the model knows {', '.join(labels)}"
                )
            if score is not None:
                uris.append(uri)
                truth.append(numbers[label])
                scores.append(score)
    if not truth:
        raise CatdogError("no labelled image could be classified")
    return uris, np.array(truth), np.array(scores, np.float64)


def _measure(
    config: EvaluateConfig,
    output: str,
    fingerprint: str,
    labels: tuple[str, ...],
    uris: list[str],
    truth: Any,
    scores: Any,
    rejected: int,
) -> Evaluation:
    from sklearn import metrics

    numbers = list(range(len(labels)))
    said = scores.argmax(axis=1)
    right = said == truth
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, said, labels=numbers, zero_division=0
    )
    classes: dict[str, dict[str, float | None]] = {}
    for number, label in enumerate(labels):
        one, rest = truth == number, scores[:, number]
        both = 0 < one.sum() < len(one)
        classes[label] = {
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
            "images": int(support[number]),
            "roc_auc": float(metrics.roc_auc_score(one, rest)) if both else None,
            "average_precision": float(metrics.average_precision_score(one, rest))
            if both
            else None,
            "threshold": _threshold(one, rest, config.precision_wanted),
        }
    low, high = wilson_interval(int(right.sum()), len(right))
    confidence = scores.max(axis=1)
    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: config.mistakes]
    return Evaluation(
        output=output,
        model=fingerprint,
        part=config.part,
        images=len(truth),
        rejected=rejected,
        accuracy=float(right.mean()),
        accuracy_low=low,
        accuracy_high=high,
        labels=labels,
        confusion=metrics.confusion_matrix(truth, said, labels=numbers).tolist(),
        classes=classes,
        ece=calibration_error(confidence, right),
        log_loss=float(-np.log(np.clip(scores[np.arange(len(truth)), truth], 1e-7, 1)).mean()),
        mistakes=[
            {
                "uri": uris[row],
                "true": labels[truth[row]],
                "label": labels[said[row]],
                "probability": float(confidence[row]),
            }
            for row in worst
        ],
    )


def _threshold(one: Any, scores: Any, precision_wanted: float) -> float | None:
    """The lowest threshold from which on a class's precision is at least the wanted one."""
    from sklearn import metrics

    if not one.any():
        return None
    precision, _, thresholds = metrics.precision_recall_curve(one, scores)
    reached = np.flatnonzero(precision[:-1] >= precision_wanted)
    return float(thresholds[reached[0]]) if len(reached) else None


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    z = 1.959964
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    spread /= 1 + z * z / trials
    return centre - spread, centre + spread


def calibration_error(confidence: Any, right: Any) -> float:
    """Expected calibration error: |accuracy - confidence| by bin, weighted (Guo et al. 2017)."""
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    error = 0.0
    for number in np.unique(bins):
        inside = bins == number
        error += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return float(error)


def _plots(labels: tuple[str, ...], truth: Any, scores: Any) -> bytes:
    """Confusion matrix, ROC and precision-recall curves, reliability, as one PNG."""
    from matplotlib.figure import Figure
    from sklearn import metrics

    figure = Figure(figsize=(11, 9), layout="constrained")
    (matrix_axes, roc_axes), (recall_axes, reliability_axes) = figure.subplots(2, 2)
    said = scores.argmax(axis=1)
    metrics.ConfusionMatrixDisplay.from_predictions(
        truth,
        said,
        labels=range(len(labels)),
        display_labels=labels,
        ax=matrix_axes,
        cmap="Blues",
        colorbar=False,
    )
    # With two classes the second one's curves say everything.
    for number in range(1 if len(labels) == 2 else 0, len(labels)):
        one, rest = truth == number, scores[:, number]
        if 0 < one.sum() < len(one):
            metrics.RocCurveDisplay.from_predictions(one, rest, name=labels[number], ax=roc_axes)
            metrics.PrecisionRecallDisplay.from_predictions(
                one, rest, name=labels[number], ax=recall_axes
            )
    confidence, right = scores.max(axis=1), said == truth
    edges = np.linspace(0, 1, _CALIBRATION_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, _CALIBRATION_BINS - 1)
    used = np.unique(bins)
    reliability_axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    reliability_axes.plot(
        [confidence[bins == number].mean() for number in used],
        [right[bins == number].mean() for number in used],
        marker="o",
    )
    error = calibration_error(confidence, right)
    reliability_axes.set(
        title=f"reliability, ECE {error:.3f}",
        xlabel="probability",
        ylabel="accuracy",
        xlim=(1 / len(labels), 1),
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
