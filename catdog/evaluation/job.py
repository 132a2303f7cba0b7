"""How good a model is on labelled images: a classify job, and what its table says.

The scores are those of `classify`, by the same code, so that what is measured is what users get.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro.conf

from catdog import classification, storage
from catdog.classification import ClassifyConfig
from catdog.errors import CatdogError, UserInputError
from catdog.observer import Observer
from catdog.results import part_files, plans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catdog.results import Plan

METRICS_FILE = "metrics.json"
PLOTS_FILE = "plots.png"
RESULTS_FOLDER = "results"
_CALIBRATION_BINS = 15
_CURVE_POINTS = 100  # more than eyes can tell apart
_DRAWN_CLASSES = 10  # the largest ones; more lines are a thicket
_READ_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ClassifyConfig):
    """What to evaluate, on which labelled images.

    Attributes:
        min_probability: stays 0: evaluation looks at every threshold.
        precision_wanted: share of right labels to find thresholds for, of the model and each class.
        mistakes: how many of the most confident mistakes are listed.
    """

    min_probability: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 0.0
    precision_wanted: float = 0.99
    mistakes: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_probability:
            raise UserInputError("min_probability: evaluation looks at every threshold")
        if not 0 < self.precision_wanted <= 1:
            raise UserInputError("--precision-wanted must be a fraction above 0, at most 1")
        if self.mistakes < 0:
            raise UserInputError("--mistakes must not be negative")


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
        classes: by class, precision, recall, F1, images, area under the ROC curve, average
            precision, and the lowest threshold of the class's score at which the wanted precision
            is reached, with the recall there.
        ece: expected calibration error of the winning probability, in 15 equal bins.
        log_loss: mean negative log of the true class's probability.
        reliability: of each of those bins that holds images: its edges, how many images, their mean
            probability, and the fraction of them that is right.
        precision_wanted: what the thresholds are for.
        threshold: the lowest `--min-probability` at which so many of the remaining labels are
            right, or None where none does.
        kept: fraction of the images that keep their label there.
        mistakes: URI, true label, label, probability of the most confident mistakes.
        curves: by class, at most 100 points of the ROC curve (`false_positive_rate`,
            `true_positive_rate`) and of precision over recall (`recall`, `precision`).
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
    reliability: list[dict[str, float]]
    precision_wanted: float
    threshold: float | None
    kept: float | None
    mistakes: list[dict[str, Any]]
    curves: dict[str, dict[str, list[float]]]


def evaluate(config: EvaluateConfig, observer: Observer | None = None) -> Evaluation:
    """Classify labelled images into `output/results` and measure; resumes as `classify` does.

    Raises:
        UserInputError: as `classify`, or an image's label is not one of the model's.
        CatdogError: as `classify`, or no image could be decoded.
    """
    observer = observer or Observer()
    output = storage.to_uri(config.output)
    fields = {field.name for field in dataclasses.fields(ClassifyConfig)}
    job = ClassifyConfig(**{name: getattr(config, name) for name in fields})
    job = dataclasses.replace(job, output=storage.join(output, RESULTS_FOLDER))
    summary = classification.classify(job, observer, check=_check_labelled)
    observer.phase("measuring")
    return _measure_results(config, output, summary.model, summary.rejected)


def _measure_results(
    config: EvaluateConfig, output: str, fingerprint: str, rejected: int
) -> Evaluation:
    """Measure what `output/results` holds; write the figures and the plots."""
    plan = plans.read(storage.join(output, RESULTS_FOLDER))
    if plan is None:
        raise CatdogError(f"{output} holds no results")
    evaluation = _measure(config, output, fingerprint, rejected, plan, _read(plan))
    storage.write_atomic(storage.join(output, PLOTS_FILE), _plots(evaluation))
    storage.write_atomic(storage.join(output, METRICS_FILE), _json(evaluation))
    return evaluation


def read(output: str) -> Evaluation | None:
    """What `evaluate` wrote into the folder of this URI; None where it did not finish.

    Raises:
        CatdogError: the file is damaged, or of another version.
    """
    content = part_files.read_json(output, METRICS_FILE)
    if content is None:
        return None
    try:
        return Evaluation(**content | {"labels": tuple(content["labels"])})
    except (KeyError, TypeError) as error:
        raise CatdogError(
            f"{storage.join(output, METRICS_FILE)}: of another version; evaluate again"
        ) from error


def _json(evaluation: Evaluation) -> bytes:
    """`metrics.json`, a list of numbers on one line."""
    text = json.dumps(dataclasses.asdict(evaluation), indent=2, ensure_ascii=False)
    # A string holds no line break, so that only lists of numbers match.
    text = re.sub(
        r"\[\n([-+\d.e,\s]+)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text
    )
    return (text + "\n").encode("utf-8", "replace")


def _check_labelled(entries: pa.RecordBatch, labels: tuple[str, ...]) -> pa.RecordBatch:
    """The entries, refused if one that can be read is not labelled with a class of the model."""
    known = pc.is_in(entries["label"], value_set=pa.array(labels, pa.string()))
    wrong = pc.and_(pc.invert(known), entries["error"].is_null())
    if pc.any(wrong).as_py():
        first = entries.filter(wrong).slice(0, 1).to_pylist()[0]
        said = "has no label" if first["label"] is None else f"is labelled {first['label']!r}"
        raise UserInputError(
            f"{first['uri']} {said}; the model knows {', '.join(labels)}: evaluation wants one "
            "folder for each of them, or a table with a label column"
        )
    return entries


@dataclass(frozen=True)
class _Labelled:
    """The labelled images that were classified.

    Attributes:
        labels: the classes in the order of the scores.
        truth: class number, int32 (n,).
        scores: float32 (n, classes).
        places: shard and row in it, int32 (n, 2).
    """

    labels: tuple[str, ...]
    truth: NDArray[np.int32]
    scores: NDArray[np.float32]
    places: NDArray[np.int32]


def _read(plan: Plan) -> _Labelled:
    """Arrays of all part files: a few bytes an image, however long the names are."""
    labels: tuple[str, ...] = ()
    truth, scores, places = [], [], []
    with concurrent.futures.ThreadPoolExecutor(_READ_THREADS) as pool:
        parts = pool.map(
            lambda shard: part_files.read_part(plan, shard, ["scores"]), range(plan.shards)
        )
        for shard, rows in enumerate(parts):
            labels = labels or part_files.labels_of(rows.schema)
            good = rows["scores"].is_valid().to_numpy()
            numbers = pc.index_in(
                plan.read_shard(shard)["label"], value_set=pa.array(labels, pa.string())
            )
            truth.append(pc.fill_null(numbers, -1).to_numpy()[good])
            scores.append(pc.list_flatten(rows["scores"]).to_numpy().reshape(-1, len(labels)))
            row = np.flatnonzero(good)
            places.append(np.column_stack([np.full(len(row), shard), row]).astype(np.int32))
    labelled = _Labelled(
        labels, np.concatenate(truth), np.concatenate(scores), np.concatenate(places)
    )
    if (labelled.truth < 0).any():  # a plan that `_check_labelled` has not seen
        raise CatdogError(f"{plan.output} holds images without a label of the model")
    if not len(labelled.truth):
        raise CatdogError("no labelled image could be classified")
    return labelled


def _uris(plan: Plan, places: NDArray[np.int32]) -> list[str]:
    """URIs of the images at these places."""
    shards = {
        shard: part_files.read_part(plan, shard, ["uri"])["uri"]
        for shard in dict.fromkeys(places[:, 0].tolist())
    }
    return [shards[shard][row].as_py() for shard, row in places.tolist()]


def _measure(
    config: EvaluateConfig,
    output: str,
    fingerprint: str,
    rejected: int,
    plan: Plan,
    labelled: _Labelled,
) -> Evaluation:
    from sklearn import metrics

    labels, truth, scores = labelled.labels, labelled.truth, labelled.scores
    numbers = list(range(len(labels)))
    said = scores.argmax(axis=1)
    right = said == truth
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, said, labels=numbers, zero_division=0
    )
    classes: dict[str, dict[str, float | None]] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    for number, label in enumerate(labels):
        one, rest = truth == number, scores[:, number]
        both = 0 < one.sum() < len(one)
        threshold = lowest_threshold(rest, one, config.precision_wanted)
        classes[label] = {
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
            "images": int(support[number]),
            "roc_auc": float(metrics.roc_auc_score(one, rest)) if both else None,
            "average_precision": float(metrics.average_precision_score(one, rest))
            if both
            else None,
            "threshold": threshold,
            "threshold_recall": float((rest[one] >= threshold).mean())
            if threshold is not None
            else None,
        }
        if both:
            curves[label] = _curves(one, rest)
    low, high = wilson_interval(int(right.sum()), len(right))
    confidence = scores.max(axis=1)
    threshold = lowest_threshold(confidence, right, config.precision_wanted)
    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: config.mistakes]
    of_truth = scores[np.arange(len(truth)), truth].astype(np.float64)
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
        log_loss=float(-np.log(np.clip(of_truth, 1e-7, 1)).mean()),
        reliability=reliability(confidence, right),
        precision_wanted=config.precision_wanted,
        threshold=threshold,
        kept=float((confidence >= threshold).mean()) if threshold is not None else None,
        mistakes=[
            {
                "uri": uri,
                "true": labels[truth[row]],
                "label": labels[said[row]],
                "probability": float(confidence[row]),
            }
            for uri, row in zip(_uris(plan, labelled.places[worst]), worst, strict=True)
        ],
        curves=curves,
    )


def lowest_threshold(scores: Any, right: Any, wanted: float) -> float | None:
    """The lowest threshold, of four digits, at which a `wanted` share of what it keeps is right.

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


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    z = 1.959964
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    spread /= 1 + z * z / trials
    return centre - spread, centre + spread


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


def _curves(one: Any, scores: Any) -> dict[str, list[float]]:
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
    return sorted(images, key=lambda label: -images[label])[:_DRAWN_CLASSES]


def _plots(evaluation: Evaluation) -> bytes:
    """Confusion matrix, ROC and precision-recall curves, reliability, as one PNG."""
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    figure = Figure(figsize=(11, 9), layout="constrained")
    (matrix_axes, roc_axes), (recall_axes, reliability_axes) = figure.subplots(2, 2)
    few = len(evaluation.labels) <= _DRAWN_CLASSES
    ConfusionMatrixDisplay(
        np.array(evaluation.confusion), display_labels=evaluation.labels if few else None
    ).plot(ax=matrix_axes, cmap="Blues", colorbar=False, include_values=few)
    matrix_axes.set(title="confusion matrix")
    if not few:
        matrix_axes.set(xticks=[], yticks=[])
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
    bins = evaluation.reliability
    intervals = [wilson_interval(round(b["right"] * b["images"]), int(b["images"])) for b in bins]
    at = [each["probability"] for each in bins]
    reliability_axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    reliability_axes.vlines(at, *zip(*intervals, strict=True), alpha=0.4)
    reliability_axes.plot(at, [each["right"] for each in bins], marker="o")
    reliability_axes.set(
        title=f"reliability: calibration error {evaluation.ece:.3f}",
        xlabel="probability",
        ylabel="fraction that is right, with its 95 % interval",
        xlim=(1 / len(evaluation.labels), 1.01),
        ylim=(0, 1.02),
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
