"""Distributed batch image classification on Ray.

The jobs as functions, with keywords of the flags' names:

```python
import catdog

summary = catdog.classify(["photos/", "archive.zip"], output="results-reference", model="runs/first")
print(summary.labels)
```

and the model as a part of other programs:

```python
import catdog

print(catdog.load_model().predict("photos/cat/cat.1.jpg")[0].label)
```

They are imported when they are first used: `import catdog` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from catdog.version import __version__

if TYPE_CHECKING:
    from catdog.api import classify, evaluate, report, train
    from catdog.classification import ClassifyConfig, ClassifySummary
    from catdog.errors import CatdogError, UserInputError
    from catdog.evaluation import EvaluateConfig, Evaluation
    from catdog.inputs import Columns, SourceLimits
    from catdog.observer import Observer
    from catdog.pixels import DecodeLimits
    from catdog.prediction import Classifier, LoadedModel, Prediction, read_images
    from catdog.prediction import load as load_model
    from catdog.reporting import ReportConfig, ReportSummary
    from catdog.storage import Stores
    from catdog.terminal import Progress
    from catdog.training import TrainConfig, TrainResult


__all__ = [
    "CatdogError",
    "Classifier",
    "ClassifyConfig",
    "ClassifySummary",
    "Columns",
    "DecodeLimits",
    "EvaluateConfig",
    "Evaluation",
    "LoadedModel",
    "Observer",
    "Prediction",
    "Progress",
    "ReportConfig",
    "ReportSummary",
    "SourceLimits",
    "Stores",
    "TrainConfig",
    "TrainResult",
    "UserInputError",
    "__version__",
    "classify",
    "evaluate",
    "load_model",
    "read_images",
    "report",
    "train",
]

_HOMES = {
    "api": ("classify", "evaluate", "report", "train"),
    "classification": ("ClassifyConfig", "ClassifySummary"),
    "errors": ("CatdogError", "UserInputError"),
    "evaluation": ("EvaluateConfig", "Evaluation"),
    "inputs": ("Columns", "SourceLimits"),
    "observer": ("Observer",),
    "pixels": ("DecodeLimits",),
    "prediction": ("Classifier", "LoadedModel", "Prediction", "read_images"),
    "reporting": ("ReportConfig", "ReportSummary"),
    "storage": ("Stores",),
    "terminal": ("Progress",),
    "training": ("TrainConfig", "TrainResult"),
}
_PLACES = {name: (module, name) for module, names in _HOMES.items() for name in names} | {
    "load_model": ("prediction", "load"),  # clearer names where they stand alone
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
