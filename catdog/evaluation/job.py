"""Measures a model on labelled images: a classify job, then metrics of its result rows.

The scores come from the code of `classify`, so the metrics hold for the results that users get.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro.conf

from catdog import classification, inputs, storage
from catdog.classification import ClassifyConfig, thresholds
from catdog.errors import CatdogError, UserInputError, counted
from catdog.evaluation import multi_label, plots
from catdog.evaluation.metrics import (
    Evaluation,
    calibration_error,
    curves,
    label_thresholds,
    lowest_threshold,
    of_class,
    reliability,
    wilson_interval,
)
from catdog.observer import Observer
from catdog.results import Folder, damage, ledger, part_files, plans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catdog.model import folders
    from catdog.results import Plan

METRICS_FILE = "metrics.json"
PLOTS_FILE = "plots.png"
LABELS_FILE = "labels.parquet"
RESULTS_FOLDER = "results"
_READ_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ClassifyConfig):
    """What to evaluate, on which labelled images.

    Attributes:
        min_probability: Always 0, because evaluation considers every threshold.
        thresholds: Always unset, for the same reason.
        scores: Always `yes`, because evaluation considers every score.
        precision_at: Find the thresholds above which this fraction of the labels is right, for the
            model and for each class. They go to `thresholds.json`, for `classify --thresholds`.
        mistakes: Number of mistakes to list, the most confident first.
        labels: Table with columns `uri` and `label`, such as one saved from a report. Its labels
            replace the images' own.
    """

    min_probability: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 0.0
    thresholds: tyro.conf.Suppress[tyro.conf.Fixed[str | None]] = None
    top: tyro.conf.Suppress[tyro.conf.Fixed[int | None]] = None
    scores: tyro.conf.Suppress[tyro.conf.Fixed[Literal["yes", "no"]]] = "yes"
    precision_at: float = 0.99
    mistakes: int = 50
    labels: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_probability or self.thresholds is not None:
            raise UserInputError("min_probability, thresholds: evaluation looks at every threshold")
        if self.scores != "yes":
            raise UserInputError("scores: evaluation looks at every score")
        if not 0 < self.precision_at <= 1:
            raise UserInputError("--precision-at must be a fraction above 0, at most 1")
        if self.mistakes < 0:
            raise UserInputError("--mistakes must not be negative")


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
    given = None
    if config.labels is not None:
        given = inputs.GivenLabels.read(config.labels, config.source_limits)
    check = functools.partial(_check_labelled, given=given)
    summary = classification.classify(job, observer, check=check)
    observer.phase("measuring")
    return _measure_results(config, output, summary.model, summary.rejected, given, observer)


def _measure_results(
    config: EvaluateConfig,
    output: str,
    fingerprint: str,
    rejected: int,
    given: inputs.GivenLabels | None,
    observer: Observer,
) -> Evaluation:
    """Compute the metrics of `output/results`; write them and the plots."""
    plan = plans.read(storage.join(output, RESULTS_FOLDER))
    if plan is None:
        raise CatdogError(f"{output} holds no results")
    labelled = _read(plan, given)
    if given is not None:
        observer.phase(_of_table(config.labels, labelled.given, given))
    _keep(output, given)
    by_class: dict[str, float | None]
    if labelled.truth.ndim == 2:
        evaluation = multi_label.measure(
            labelled.labels,
            labelled.truth.astype(np.bool_),
            labelled.scores,
            config.precision_at,
            output=output,
            model=fingerprint,
            part=config.part,
            rejected=rejected,
        )
        by_class = {label: each["threshold"] for label, each in evaluation.classes.items()}
    else:
        evaluation = _measure(config, output, fingerprint, rejected, plan, labelled)
        least = label_thresholds(labelled.scores, labelled.truth, config.precision_at)
        by_class = dict(zip(labelled.labels, least, strict=True))
    thresholds.write(output, fingerprint, config.precision_at, by_class)
    storage.write_atomic(storage.join(output, PLOTS_FILE), plots.draw(evaluation))
    storage.write_atomic(storage.join(output, METRICS_FILE), _json(evaluation))
    return evaluation


def read(output: str) -> Evaluation | None:
    """The evaluation in the folder at this URI; None if `evaluate` did not finish there.

    Raises:
        CatdogError: the file is damaged, or of another version.
    """
    content = ledger.read_json(Folder(output), METRICS_FILE)
    if content is None:
        return None
    try:
        return Evaluation(**content | {"labels": tuple(content["labels"])})
    except (KeyError, TypeError) as error:
        raise CatdogError(
            f"{storage.join(output, METRICS_FILE)}: was written by another version; evaluate again"
        ) from error


def given_labels(output: str) -> inputs.GivenLabels | None:
    """The labels that the evaluation in the folder at this URI was given, or None.

    Raises:
        CatdogError: the file is damaged.
    """
    content = Folder(output).read(LABELS_FILE)
    if content is None:
        return None
    with damage.named(storage.join(output, LABELS_FILE)):
        return inputs.GivenLabels(pq.read_table(pa.BufferReader(content[0])))


def _keep(output: str, given: inputs.GivenLabels | None) -> None:
    """Keep the given labels beside the metrics: the page shows them, too."""
    uri = storage.join(output, LABELS_FILE)
    if given is None:
        storage.delete(uri)
        return
    content = io.BytesIO()
    pq.write_table(given.table, content, compression="zstd")
    storage.write_atomic(uri, content.getvalue())


def _of_table(table: str | None, used: int, given: inputs.GivenLabels) -> str:
    """A line about the given labels.

    Raises:
        UserInputError: none is of an image that was evaluated.
    """
    if not used:
        raise UserInputError(f"--labels {table}: none of its labels belongs to an evaluated image")
    line = f"{counted(used, 'label')} from {table}"
    if used < given.table.num_rows:
        line += f"; {given.table.num_rows - used:,} more in it are of no image evaluated"
    return line


def _json(evaluation: Evaluation) -> bytes:
    """`metrics.json`, a list of numbers on one line."""
    text = json.dumps(dataclasses.asdict(evaluation), indent=2, ensure_ascii=False)
    # A string holds no line break, so that only lists of numbers match.
    text = re.sub(
        r"\[\n([-+\d.e,\s]+)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text
    )
    return (text + "\n").encode("utf-8", "replace")


def _check_labelled(
    entries: pa.RecordBatch,
    metadata: folders.ModelMetadata,
    given: inputs.GivenLabels | None = None,
) -> pa.RecordBatch:
    """The entries, unchanged; raises if a readable one has no label, or one that the model lacks."""
    labels, told = metadata.labels, entries["label"]
    if given is not None:
        told, _ = given.over(entries["uri"], told)
    if metadata.multi_label:
        unknown = multi_label.unknown_label(told, labels)
    else:
        unknown = pc.invert(pc.is_in(told, value_set=pa.array(labels, pa.string())))
    wrong = pc.and_(unknown, entries["error"].is_null())
    if pc.any(wrong).as_py():
        first = pc.index(wrong, value=True).as_py()
        label = told[first].as_py()
        said = "has no label" if label is None else f"is labelled {label!r}"
        raise UserInputError(
            f"{entries['uri'][first]} {said}; the model knows {', '.join(labels)}: evaluation needs "
            "one folder for each of them, a table with a label column, or --labels"
        )
    return entries


@dataclass(frozen=True)
class _Labelled:
    """The labelled images that were classified.

    Attributes:
        labels: the classes in the order of the scores.
        truth: class numbers, int32 (n,); for a multi-label model 0 or 1 per class, (n, classes).
        scores: float32 (n, classes).
        places: shard and row within it, int32 (n, 2).
        given: how many of all images have a given label, the rejected ones among them.
    """

    labels: tuple[str, ...]
    truth: NDArray[np.int32]
    scores: NDArray[np.float32]
    places: NDArray[np.int32]
    given: int


def _read(plan: Plan, given: inputs.GivenLabels | None) -> _Labelled:
    """Read all part files into arrays that take a few bytes per image, without the names."""
    labels: tuple[str, ...] = ()
    truth, scores, places, used = [], [], [], 0
    with concurrent.futures.ThreadPoolExecutor(_READ_THREADS) as pool:
        parts = pool.map(
            lambda shard: part_files.read_part(plan, shard, ["scores", part_files.HAS_LABELS]),
            range(plan.shards),
        )
        for shard, rows in enumerate(parts):
            labels = labels or part_files.labels_of(rows.schema)
            good = rows["scores"].is_valid().to_numpy()
            entries = plan.read_shard(shard)
            told = entries["label"]
            if given is not None:
                told, are_given = given.over(entries["uri"], told)
                used += int(are_given.sum())
            if part_files.has_several(rows.schema):
                truth.append(multi_label.answers(told, labels)[good].astype(np.int32))
            else:
                numbers = pc.index_in(told, value_set=pa.array(labels, pa.string()))
                truth.append(np.asarray(pc.fill_null(numbers, -1))[good])
            scores.append(pc.list_flatten(rows["scores"]).to_numpy().reshape(-1, len(labels)))
            row = np.flatnonzero(good)
            places.append(np.column_stack([np.full(len(row), shard), row]).astype(np.int32))
    labelled = _Labelled(
        labels, np.concatenate(truth), np.concatenate(scores), np.concatenate(places), used
    )
    if (labelled.truth < 0).any():  # a plan that `_check_labelled` has not seen
        raise CatdogError(f"{plan.output} holds images whose label is not one of the model")
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
    drawn: dict[str, dict[str, list[float]]] = {}
    for number, label in enumerate(labels):
        one, rest = truth == number, scores[:, number]
        classes[label] = {
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
            "images": int(support[number]),
            **of_class(one, rest, config.precision_at),
        }
        if classes[label]["roc_auc"] is not None:
            drawn[label] = curves(one, rest)
    low, high = wilson_interval(int(right.sum()), len(right))
    confidence = scores.max(axis=1)
    threshold = lowest_threshold(confidence, right, config.precision_at)
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
        precision_wanted=config.precision_at,
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
        curves=drawn,
    )
