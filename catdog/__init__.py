"""Distributed batch image classification on Ray.

The jobs as functions, each with a frozen configuration of the flags' names:

    run = catdog.train(catdog.TrainConfig(images=("photos/",), output="runs/first"))
    catdog.classify(catdog.ClassifyConfig(images=("new/",), output="results", model=run.model))

They are imported when they are first used: `import catdog` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from catdog.version import __version__

if TYPE_CHECKING:
    from catdog.classification import ClassifyConfig, ClassifySummary, classify
    from catdog.errors import CatdogError, UserInputError
    from catdog.evaluation import EvaluateConfig, Evaluation, evaluate
    from catdog.inputs import SourceLimits
    from catdog.model import load as load_model
    from catdog.observer import Observer
    from catdog.pixels import DecodeLimits
    from catdog.reporting import ReportConfig, ReportSummary
    from catdog.reporting import write as write_report
    from catdog.training import TrainConfig, TrainResult, train


__all__ = [
    "CatdogError",
    "ClassifyConfig",
    "ClassifySummary",
    "DecodeLimits",
    "EvaluateConfig",
    "Evaluation",
    "Observer",
    "ReportConfig",
    "ReportSummary",
    "SourceLimits",
    "TrainConfig",
    "TrainResult",
    "UserInputError",
    "__version__",
    "classify",
    "evaluate",
    "load_model",
    "train",
    "write_report",
]

_HOMES = {
    "classification": ("ClassifyConfig", "ClassifySummary", "classify"),
    "errors": ("CatdogError", "UserInputError"),
    "evaluation": ("EvaluateConfig", "Evaluation", "evaluate"),
    "inputs": ("SourceLimits",),
    "observer": ("Observer",),
    "pixels": ("DecodeLimits",),
    "reporting": ("ReportConfig", "ReportSummary"),
    "training": ("TrainConfig", "TrainResult", "train"),
}
_PLACES = {name: (module, name) for module, names in _HOMES.items() for name in names} | {
    "load_model": ("model", "load"),  # clearer names where they stand alone
    "write_report": ("reporting", "write"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'catdog' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    found = getattr(importlib.import_module(f"catdog.{module}"), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
