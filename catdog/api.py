"""The jobs as Python functions, with the flags of the command line as keywords.

Each takes the fields of its configuration as keywords, or a whole configuration. Paths may be `str`
or `os.PathLike`. If a function takes several inputs, a single one may be passed without a list.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Union

from catdog import classification, evaluation, inputs, reporting, storage, training
from catdog.errors import UserInputError
from catdog.observer import Observer, forgiving
from catdog.results import Folder, ledger

if TYPE_CHECKING:
    from catdog.classification import ClassifyConfig, ClassifySummary
    from catdog.evaluation import EvaluateConfig, Evaluation
    from catdog.inputs import Frame
    from catdog.reporting import ReportConfig, ReportSummary
    from catdog.training import TrainConfig, TrainResult

Config = TypeVar("Config")
Place: TypeAlias = str | os.PathLike[str]
"""A local path or a URI."""


def classify(
    images: Place | Iterable[Place] | Frame | ClassifyConfig,
    output: Place | None = None,
    *,
    observer: Observer | None = None,
    **settings: Any,
) -> ClassifySummary:
    """Classify images into Parquet, as `catdog classify` does.

    ```python
    import catdog

    summary = catdog.classify("photos/", output="results-api", min_probability=0.6)
    print(summary.classified, summary.rejected, summary.labels)
    ```

    Args:
        images: one or several inputs, a table of paths, URIs or images (pyarrow, pandas, Polars), or
            a whole configuration. A table is stored in the output, in `_given/`.
        output: folder for the results; local or a store.
        observer: is told about progress, on the driver. If it raises, the job continues.
        settings: the other fields of `ClassifyConfig`.

    Returns:
        The counts, labels and times of the job.

    Raises:
        UserInputError: an argument has a wrong type, the input or the model is wrong, or the output
            belongs to another job.
        CatdogError: the job failed; the same call resumes it.
    """
    if inputs.is_frame(images):
        return _classify_frame(images, output, observer, settings)
    config = _configured(classification.ClassifyConfig, images, output, settings)
    with storage.chosen(config):
        return classification.classify(config, forgiving(observer))


def _classify_frame(
    frame: Frame, output: Place | None, observer: Observer | None, settings: dict[str, Any]
) -> ClassifySummary:
    config = _configured(classification.ClassifyConfig, inputs.FRAMES_FOLDER, output, settings)
    with storage.chosen(config):
        return _classify_stored(frame, config, observer)


def _classify_stored(
    frame: Frame, config: ClassifyConfig, observer: Observer | None
) -> ClassifySummary:
    with storage.blamed_on(f"output {config.output}"):
        folder = storage.to_uri(config.output)
        table, new = inputs.store_frame(frame, config.columns, folder)
    config = dataclasses.replace(config, images=(table,))
    try:
        return classification.classify(config, forgiving(observer))
    except UserInputError:
        if new and ledger.read_question(Folder(folder)) is None:
            storage.delete(table)  # nothing was begun
        raise


def train(
    images: Place | Iterable[Place] | TrainConfig,
    output: Place | None = None,
    *,
    observer: Observer | None = None,
    **settings: Any,
) -> TrainResult:
    """Train on labelled images, as `catdog train` does.

    Args:
        images: one or several inputs, or a whole configuration.
        output: folder for the run.
        observer: as for `classify`.
        settings: the other fields of `TrainConfig`.

    Returns:
        The run's folder, its best epoch and that epoch's metrics.

    Raises:
        UserInputError: an argument has a wrong type, or the input is wrong.
        CatdogError: training failed.
    """
    config = _configured(training.TrainConfig, images, output, settings)
    with storage.chosen(config):
        return training.train(config, forgiving(observer))


def evaluate(
    images: Place | Iterable[Place] | EvaluateConfig,
    output: Place | None = None,
    *,
    observer: Observer | None = None,
    **settings: Any,
) -> Evaluation:
    """Measure a model on labelled images, as `catdog evaluate` does.

    Args:
        images: one or several inputs, or a whole configuration.
        output: folder for the evaluation.
        observer: as for `classify`.
        settings: the other fields of `EvaluateConfig`.

    Raises:
        UserInputError: an argument has a wrong type, or for the reasons of `classify`.
        CatdogError: the job failed, or no image could be decoded.
    """
    config = _configured(evaluation.EvaluateConfig, images, output, settings)
    with storage.chosen(config):
        return evaluation.evaluate(config, forgiving(observer))


def report(
    results: Place | ReportConfig,
    output: Place | None = None,
    *,
    observer: Observer | None = None,
    **settings: Any,
) -> ReportSummary:
    """Write the page of results, as `catdog report` does.

    ```python
    import catdog

    print(catdog.report("results", thumbnails=12).output)
    ```

    Args:
        results: a folder of results or of an evaluation, or a whole configuration.
        output: the HTML file; by default beside the results.
        observer: as for `classify`.
        settings: the other fields of `ReportConfig`.

    Raises:
        UserInputError: an argument has a wrong type, or there are no results.
        CatdogError: a file of the results is damaged.
    """
    config = _configured(reporting.ReportConfig, results, output, settings)
    with storage.chosen(config):
        return reporting.write(config, forgiving(observer))


def _configured(kind: type[Config], first: Any, output: Any, settings: dict[str, Any]) -> Config:
    """A configuration from the caller's arguments.

    Raises:
        UserInputError: names the argument of a wrong type.
        TypeError: there is no such keyword, as of any Python function.
    """
    if isinstance(first, kind):
        if output is not None or settings:
            raise UserInputError(f"a {kind.__name__} is whole; give no other arguments beside it")
        return first
    hints = typing.get_type_hints(kind, include_extras=False)
    several, *_ = (field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    given = {several: first} | ({} if output is None else {"output": output}) | settings
    for name, value in given.items():
        if name in hints:
            given[name] = _plain(value, hints[name])
            if not _fits(given[name], hints[name]):
                raise UserInputError(f"{name} {value!r}: must be {_named(hints[name])}")
    return kind(**given)


def _plain(value: Any, hint: Any) -> Any:
    """Paths as text, and one or several inputs as the tuple that configurations hold."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if typing.get_origin(hint) is not tuple or isinstance(value, bytes | dict):
        return value
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Iterable):
        return tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(each, arguments[0]) for each in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _named(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(each) for each in arguments)
    if origin is Literal:
        return " or ".join(repr(each) for each in arguments)
    if origin is tuple:
        return f"{_named(arguments[0])}, or several of them"
    return "None" if hint is types.NoneType else str(hint.__name__)
