"""Evaluation: labelled images and a model come in, an `Evaluation` and result rows go out."""

from catdog.evaluation.job import RESULTS_FOLDER, EvaluateConfig, evaluate, given_labels, read
from catdog.evaluation.metrics import Evaluation, caution, drawn_classes, wilson_interval

__all__ = [
    "RESULTS_FOLDER",
    "EvaluateConfig",
    "Evaluation",
    "caution",
    "drawn_classes",
    "evaluate",
    "given_labels",
    "read",
    "wilson_interval",
]
