"""Data-parallel training: a `TrainConfig` comes in, a model folder and a `TrainResult` go out."""

from catdog.training import claims
from catdog.training.config import ARTICLE, COMPACT, COMPACT_SHORT, PROBE, TRANSFER
from catdog.training.job import TrainConfig, TrainResult, train
from catdog.training.labelled import list_labelled
from catdog.training.records import CURVES_FILE, METRICS_FILE

__all__ = [
    "ARTICLE",
    "COMPACT",
    "COMPACT_SHORT",
    "CURVES_FILE",
    "METRICS_FILE",
    "PROBE",
    "TRANSFER",
    "TrainConfig",
    "TrainResult",
    "claims",
    "list_labelled",
    "train",
]
