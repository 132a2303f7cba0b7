"""Data-parallel training: a `TrainConfig` comes in, a model folder and a `TrainResult` go out."""

from catdog.training.config import COMPACT, SEED, TRANSFER
from catdog.training.job import TrainConfig, TrainResult, train

__all__ = ["COMPACT", "SEED", "TRANSFER", "TrainConfig", "TrainResult", "train"]
