"""The content of the template's sections: the most important figures, ordered and limited in number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import evaluation
from catdog.reporting.choice import MATRIX_LABELS, PLOTTED_LABELS
from catdog.reporting.plots import curves_plot, histogram_plot, trust_plot
from catdog.reporting.thumbnails import Picture
from catdog.reporting.wording import MEANINGS, file_names, shown, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from catdog.evaluation import Evaluation
    from catdog.reporting.candidates import Candidates, Place
    from catdog.reporting.choice import Chosen
    from catdog.reporting.figures import Figures, Truth

_SHOWN_LABELS = 50  # rows of the table; the others are one row
_SHOWN_PAIRS = 20


def labels(figures: Figures) -> dict[str, Any]:
    """Images by label, and what the threshold's slider needs to count them anew."""
    few, others = figures.order[:_SHOWN_LABELS], figures.order[_SHOWN_LABELS:]
    histogram = figures.histogram
    return {
        "label_rows": [
            {
                "number": number,
                "label": figures.labels[label],
                "label_number": label,
                "all": int(histogram[label].sum()),
                "count": int(histogram[label, figures.start :].sum()),
            }
            for number, label in enumerate(few)
        ],
        "other_labels": len(others),
        "other_images": int(histogram[list(others)].sum()) if others else 0,
        "start_count": int(histogram[:, : figures.start].sum()),
        "data": {
            # The shortest decimals that are these float32: what compares equal in a browser.
            "thresholds": [float(str(edge)) for edge in figures.thresholds],
            "start": figures.start,
            "labels": [
                {"name": shown(figures.labels[label]), "counts": histogram[label].tolist()}
                for label in few
            ],
            "others": histogram[list(others)].sum(axis=0).tolist() if others else None,
            "right": figures.right.tolist() if figures.right is not None else None,
            "known": figures.known.tolist() if figures.known is not None else None,
        },
        "distributions": [
            _distribution(figures, number, label)
            for number, label in enumerate(figures.order[:PLOTTED_LABELS])
            if histogram[label].any()
        ],
    }


def _distribution(figures: Figures, number: int, label: int) -> dict[str, Any]:
    counts = figures.bars(label)
    return {
        "number": number,
        "label": figures.labels[label],
        "label_number": label,
        "edges": [round(float(edge), 4) for edge in figures.edges],
        "images": int(counts.sum()),
        "plot": histogram_plot(counts, figures.edges, f"d{number}"),
        "table": _coarse(figures.edges, counts),
    }


def _coarse(
    edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> list[tuple[float, float, int]]:
    """Counts by steps of a tenth, or half of one: what a table can show."""
    step = max(1, len(counts) // 10)
    return [
        (float(edges[i]), float(edges[min(i + step, len(counts))]), int(counts[i : i + step].sum()))
        for i in range(0, len(counts), step)
    ]


def truth(labels: Sequence[str], figures: Truth) -> dict[str, Any]:
    """Right and wrong: the largest classes' matrix, each class, the most frequent confusions."""
    confusion = figures.confusion
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    order = [int(i) for i in np.argsort(-support, kind="stable") if support[i] or predicted[i]]
    matrix = sorted(order[:MATRIX_LABELS])
    return {
        "source": figures.source,
        "known": figures.known,
        "right": figures.right,
        "wrong": figures.known - figures.right,
        "accuracy": figures.accuracy,
        "matrix_labels": [labels[i] for i in matrix],
        "matrix": [
            {
                "label": labels[i],
                "cells": [
                    {
                        "count": int(confusion[i, j]),
                        "share": float(confusion[i, j] / max(support[i], 1)),
                        "right": i == j,
                        "truth": i,
                        "label": j,
                    }
                    for j in matrix
                ],
                "others": int(support[i] - confusion[i, matrix].sum()),
            }
            for i in matrix
        ],
        "more": len(order) - len(matrix),
        "classes": [
            {
                "label": labels[i],
                "images": int(support[i]),
                "recall": figures.recall[i],
                "precision": figures.precision[i],
            }
            for i in order[:_SHOWN_LABELS]
        ],
        "pairs": _pairs(labels, confusion),
        "trust_plot": trust_plot(figures.trust, "trust"),
        "trust": figures.trust,
    }


def _pairs(labels: Sequence[str], confusion: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """The most frequent confusions."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_SHOWN_PAIRS]
    return [
        {"truth": labels[i], "label": labels[j], "count": int(wrong[i, j])}
        for i, j in zip(*np.unravel_index(largest, wrong.shape), strict=True)
        if wrong[i, j]
    ]


def measured(evaluated: Evaluation) -> dict[str, Any]:
    """What an evaluation has besides counts: curves, the areas under them, thresholds."""
    classes = evaluated.classes
    drawn = evaluation.drawn_classes(evaluated)

    def plot(labels: Sequence[str], x: str, y: str, area: str) -> dict[str, Any] | None:
        if not labels:
            return None
        worst = min(labels, key=lambda label: classes[label][area] or 0.0)
        lines = [(evaluated.curves[label][x], evaluated.curves[label][y]) for label in labels]
        return {
            "plot": curves_plot(lines, labels.index(worst), area),
            "label": worst,
            "area": classes[worst][area],
            "of": len(labels),
        }

    # Of two classes, the one's ROC curve is the other's mirror image.
    one_of_two = len(classes) == 2 and evaluated.multi_label is None
    of_roc = [label for label in drawn if label != evaluated.labels[0] or not one_of_two]
    largest = list(classes)
    if len(classes) > MATRIX_LABELS:
        largest.sort(key=lambda label: -(classes[label]["images"] or 0))
    return {
        "all": evaluated,
        "caution": evaluation.caution(evaluated),
        "plots": {
            "roc": plot(of_roc, "false_positive_rate", "true_positive_rate", "roc_auc"),
            "recall": plot(drawn, "recall", "precision", "average_precision"),
        },
        "classes": [{"label": label, **classes[label]} for label in largest[:_SHOWN_LABELS]],
    }


def galleries(
    figures: Figures,
    chosen: Chosen,
    rows: dict[Place, dict[str, Any]],
    pictures: dict[Place, Picture],
) -> dict[str, Any]:
    """The pictures of each label, and the most confident mistakes, with their details."""

    def items(candidates: Candidates) -> list[dict[str, Any]]:
        found = []
        for candidate in candidates:
            place = int(candidate["shard"]), int(candidate["row"])
            picture = pictures.get(place, Picture(None, trouble="No picture was asked for."))
            found.append(_item(figures.labels, candidate, rows[place], picture, names))
        return found

    shown_candidates = [*chosen.galleries.values(), chosen.mistakes, chosen.changed]
    names = file_names(
        rows[int(each["shard"]), int(each["row"])]["uri"]
        for candidates in shown_candidates
        for each in candidates
    )
    return {
        "galleries": [
            {
                "label": figures.labels[label],
                "number": figures.order.index(label),
                "images": int(figures.histogram[label].sum()),
                "items": items(candidates),
            }
            for label, candidates in chosen.galleries.items()
            if len(candidates)
        ],
        "mistakes": items(chosen.mistakes),
        "changed": items(chosen.changed),
    }


def _item(
    labels: Sequence[str],
    candidate: Any,
    row: dict[str, Any],
    picture: Picture,
    names: Mapping[str, str],
) -> dict[str, Any]:
    """A picture with its details, as the template's macro `picture` takes it."""
    truth = int(candidate["truth"])
    if "scores" in row:
        told = zip(row["scores"] or [], labels, strict=False)
    else:
        told = zip(row["top_probabilities"] or [], row["top_labels"] or [], strict=True)
    scores = sorted(told, key=lambda pair: -pair[0])
    return {
        "uri": row["uri"],
        "file": names[row["uri"]],
        "place": f"{candidate['shard']}-{candidate['row']}",
        "label": labels[int(candidate["label"])],
        "truth": labels[truth] if truth >= 0 else None,
        "wrong": truth >= 0 and truth != int(candidate["label"]),
        "probability": float(candidate["probability"]),
        "picture": picture,
        "about": {
            "uri": shown(row["uri"]),
            "scores": [[shown(label), round(score, 6)] for score, label in scores[:5]],
            "truth": shown(labels[truth]) if truth >= 0 else None,
            "image": f"{row['width']} x {row['height']} pixels, {row['format']}, "
            f"{size(row['size'])}",
            "trouble": shown(picture.trouble),
        },
    }


def rejected(
    figures: Figures, chosen: Chosen, rows: dict[Place, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The reasons, the most frequent first, each with some of its files."""
    found = []
    for code, count in figures.errors.items():
        candidates = chosen.rejected[code]
        places = sorted(zip(candidates["shard"].tolist(), candidates["row"].tolist(), strict=True))
        files = [
            {"uri": rows[place]["uri"], "detail": rows[place]["error_detail"]} for place in places
        ]
        found.append(
            {"code": code, "meaning": MEANINGS.get(code, ""), "count": count, "files": files}
        )
    return found
