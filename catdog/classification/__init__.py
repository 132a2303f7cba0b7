"""The bulk job: a `ClassifyConfig` comes in, result rows in Parquet and a summary go out."""

from catdog.classification import actors, pipeline, rounds, thresholds
from catdog.classification.config import ClassifyConfig
from catdog.classification.job import ClassifySummary, classify

__all__ = [
    "ClassifyConfig",
    "ClassifySummary",
    "actors",
    "classify",
    "pipeline",
    "rounds",
    "thresholds",
]
