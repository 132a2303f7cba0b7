"""Distributed batch image classification on Ray.

The jobs as functions, each with a frozen configuration of the flags' names:

    run = catdog.train(catdog.TrainConfig(images=("photos/",), output="runs/first"))
    catdog.classify(catdog.ClassifyConfig(images=("new/",), output="results", model=run.model))

They are imported when they are first used: `import catdog` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catdog.classification import ClassifyConfig, ClassifySummary, classify
    from catdog.errors import CatdogError, UserInputError
    from catdog.evaluation import EvaluateConfig, Evaluation, evaluate
    from catdog.images import DecodeLimits
    from catdog.models import load as load_model
    from catdog.observer import Observer
    from catdog.report import ReportConfig, ReportSummary
    from catdog.report import write as write_report
    from catdog.sources import SourceLimits
    from catdog.training import TrainConfig, TrainResult, train

__version__ = "0.1.0"

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
    "images": ("DecodeLimits",),
    "observer": ("Observer",),
    "report": ("ReportConfig", "ReportSummary"),
    "sources": ("SourceLimits",),
    "training": ("TrainConfig", "TrainResult", "train"),
}
_PLACES = {name: (module, name) for module, names in _HOMES.items() for name in names} | {
    "load_model": ("models", "load"),  # clearer names where they stand alone
    "write_report": ("report", "write"),
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
