"""The command line: parses into the jobs' own configurations, calls, prints, exits.

Exit codes: 0 done; 1 the job failed or too many images were rejected; 2 the user's input is wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from catdog import submission, terminal
from catdog.classification import ClassifyConfig, ClassifySummary
from catdog.demo import DemoConfig
from catdog.errors import CatdogError, UserInputError
from catdog.evaluation import EvaluateConfig, Evaluation
from catdog.report import ReportConfig, ReportSummary
from catdog.submission import SubmitConfig
from catdog.training import TrainConfig, TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Config = TypeVar(
    "Config", TrainConfig, ClassifyConfig, EvaluateConfig, DemoConfig, ReportConfig, SubmitConfig
)


@dataclass(frozen=True, kw_only=True)
class _Json:
    """What every command has.

    Attributes:
        json: print the summary as one JSON object on standard output.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class _Train(TrainConfig, _Json):
    """Train a CNN on labelled images, data-parallel over the workers.

    Example: catdog train photos/ --output runs/first --workers 2
    """


@dataclass(frozen=True, kw_only=True)
class _Classify(ClassifyConfig, _Json):
    """Classify images in bulk into Parquet. Run it again to go on where it stopped.

    Example: catdog classify s3://bucket/archive.zip more/ --model runs/first --output results

    Attributes:
        report: write a page to look at into the results folder, at the end.
    """

    report: bool = True


@dataclass(frozen=True, kw_only=True)
class _Demo(DemoConfig, _Json):
    """The whole story on drawn pictures, in minutes: train, classify an archive, look.

    Example: catdog demo
    """


@dataclass(frozen=True, kw_only=True)
class _Report(ReportConfig, _Json):
    """One HTML page to look at: counts, pictures, mistakes, rejected files, speed.

    Example: catdog report results
    """


@dataclass(frozen=True, kw_only=True)
class _Evaluate(EvaluateConfig, _Json):
    """Measure a model on labelled images: accuracy, confusion, calibration, mistakes.

    Example: catdog evaluate photos/ --model runs/first --part test --output evaluation
    """


def _train(command: _Train) -> int:
    from catdog import training

    with terminal.Progress("catdog-train") as progress:
        result = training.train(_plain(TrainConfig, command), progress)
    _show(command, result, print_trained)
    return 0


def print_trained(result: TrainResult) -> None:
    """The table at the end of a training run."""
    best = result.best
    terminal.table(
        "trained",
        [
            ("classes", ", ".join(result.labels)),
            ("images", ", ".join(f"{count:,} {part}" for part, count in result.images.items())),
            ("best epoch", f"{best['epoch']:.0f} of {len(result.history)}"),
            ("validation accuracy", f"{best['val_accuracy']:.2%}"),
            ("time", terminal.duration(result.seconds)),
            ("model", result.model),
        ],
    )


def _classify(command: _Classify) -> int:
    from catdog import classification

    config = _plain(ClassifyConfig, command)
    with terminal.Progress("catdog-classify") as progress:
        summary = classification.classify(config, progress)
        page = _page(summary.output, progress) if command.report else None
    if command.json:
        _print_json(dataclasses.asdict(summary))
    else:
        print_classified(summary)
        if page is not None:
            print_reported(page)
    share = summary.rejected / summary.planned
    if share > config.max_rejected:
        raise CatdogError(
            f"{summary.rejected} of {summary.planned} images were rejected ({share:.0%}), more "
            f"than --max-rejected {config.max_rejected:.0%}; all results are written"
        )
    return 0


def _page(output: str, progress: terminal.Progress) -> ReportSummary | None:
    """The report of finished results; that it cannot be made does not undo them."""
    from catdog import report

    try:
        return report.write(ReportConfig(results=output), progress)
    except (CatdogError, OSError) as error:
        progress.line(f"no report: {error}")
        return None


def print_classified(summary: ClassifySummary) -> None:
    """The table at the end of a classify job."""
    rows: list[tuple[str, Any]] = [
        ("images", f"{summary.planned:,}"),
        *((label, f"{count:,}") for label, count in summary.labels.items()),
        ("rejected", f"{summary.rejected:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in summary.errors.items()),
    ]
    if summary.already_complete:
        rows.append(("this run", "nothing to do: the job was complete"))
    elif summary.images_this_run:
        stages = ", ".join(
            f"{stage} {terminal.duration(seconds)}" for stage, seconds in summary.stages_s.items()
        )
        rows += [
            (
                "this run",
                f"{summary.images_this_run:,} images in {terminal.duration(summary.seconds)}",
            ),
            ("throughput", f"{summary.images_per_s:,.0f} images/s in {summary.precision}"),
            ("workers' time", stages),
        ]
    rows.append(("results", summary.output))
    terminal.table("classified", rows)
    if summary.output.startswith("file://"):
        path = summary.output.removeprefix("file://")
        look = f"import pyarrow.dataset as ds; print(ds.dataset({path!r}).head(3).to_pylist())"
        terminal.command_line(f'{sys.executable} -c "{look}"')


def _evaluate(command: _Evaluate) -> int:
    from catdog import evaluation

    with terminal.Progress("catdog-evaluate") as progress:
        result = evaluation.evaluate(_plain(EvaluateConfig, command), progress)
    _show(command, result, print_evaluated)
    return 0


def print_evaluated(result: Evaluation) -> None:
    """The tables at the end of an evaluation."""
    interval = f"{result.accuracy_low:.2%} to {result.accuracy_high:.2%}"
    rows: list[tuple[str, Any]] = [
        ("images", f"{result.images:,}, and {result.rejected:,} rejected"),
        ("accuracy", f"{result.accuracy:.2%} (95 % interval {interval})"),
        ("calibration error", f"{result.ece:.3f}"),
    ]
    for number, label in enumerate(result.labels):
        numbers = result.classes[label]
        said = ", ".join(
            f"{count:,} {other}"
            for count, other in zip(result.confusion[number], result.labels, strict=True)
        )
        quality = f"precision {numbers['precision']:.3f}, recall {numbers['recall']:.3f}"
        rows.append((label, f"{quality}; classified as {said}"))
    terminal.table("evaluated", [*rows, ("details", result.output)])


def _demo(command: _Demo) -> int:
    from catdog import demo

    with terminal.Progress("catdog-demo") as progress:
        result = demo.run(_plain(DemoConfig, command), progress)
        page = _page(result.classified.output, progress)
    if command.json:
        _print_json(dataclasses.asdict(result))
    else:
        print_trained(result.trained)
        print_classified(result.classified)
        demo.print_result(result)
        if page is not None:
            print_reported(page)
    return 0


def _report(command: _Report) -> int:
    from catdog import report

    with terminal.Progress("catdog-report") as progress:
        summary = report.write(_plain(ReportConfig, command), progress)
    _show(command, summary, print_reported)
    return 0


def print_reported(summary: ReportSummary) -> None:
    """The table at the end of a report."""
    rows: list[tuple[str, Any]] = [
        ("images", f"{summary.images:,}"),
        ("rejected", f"{summary.rejected:,}"),
    ]
    if summary.accuracy is not None:
        rows.append(("right", f"{summary.accuracy:.1%}"))
    rows += [
        ("pictures", f"{summary.thumbnails:,}"),
        ("time", terminal.duration(summary.seconds)),
        ("open", summary.output),
    ]
    terminal.table("report", rows)


@dataclass(frozen=True, kw_only=True)
class _Submit(SubmitConfig):
    """Run a command as a job on a remote Ray cluster; ends with the job's exit code.

    Example: catdog submit classify s3://b/photos --output s3://b/results --address http://head:8265
    """


def _submit(command: _Submit) -> int:
    # The command's own parser and checks, before anything is sent.
    job = None if command.attach else _parse(_job_arguments(command.command))
    return submission.submit(_plain(SubmitConfig, command), job)


def _job_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command that runs on a cluster, which are those with `--address`."""
    verbs = [
        name
        for name, (kind, _) in _COMMANDS.items()
        if kind is not _Submit
        and any(field.name == "address" for field in dataclasses.fields(kind))
    ]
    if not arguments or arguments[0] not in verbs:
        raise UserInputError(f"name the command to run on the cluster: {', '.join(verbs)}")
    return list(arguments)


def _plain(kind: type[Config], command: Any) -> Config:
    """The job's configuration without the command line's own flags."""
    return kind(**{field.name: getattr(command, field.name) for field in dataclasses.fields(kind)})


def _show(command: _Json, result: Any, table: Callable[[Any], None]) -> None:
    """Print what came out: one JSON object for scripts, else a table."""
    if command.json:
        _print_json(dataclasses.asdict(result))
    else:
        table(result)


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, ensure_ascii=True) + "\n")


_COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "demo": (_Demo, _demo),
    "train": (_Train, _train),
    "classify": (_Classify, _classify),
    "evaluate": (_Evaluate, _evaluate),
    "report": (_Report, _report),
    "submit": (_Submit, _submit),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, never raises for what a user can cause."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((argument for argument in arguments if argument in _COMMANDS), "")
    try:
        command = _parse(arguments)
        run = next(run for kind, run in _COMMANDS.values() if type(command) is kind)
        return run(command)
    except UserInputError as error:
        terminal.error_line(verb, str(error))
        return 2
    except CatdogError as error:
        terminal.error_line(verb, str(error))
        return 1
    except KeyboardInterrupt:
        terminal.error_line(verb, "interrupted; run the same command again to go on")
        return 130


def _parse(arguments: list[str]) -> Any:
    if arguments[:1] == ["--version"]:
        from catdog import __version__

        sys.stdout.write(f"catdog {__version__}\n")
        raise SystemExit(0)
    if not arguments:
        arguments = ["--help"]
    job: list[str] = []
    if arguments[0] == "submit":
        own, job = submission.split(arguments[1:])
        arguments = ["submit", *own]
    commands: Any = None
    for name, (kind, _) in _COMMANDS.items():
        choice: Any = Annotated[kind, tyro.conf.subcommand(name)]
        commands = choice if commands is None else commands | choice
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed = tyro.cli(
                commands,
                prog="catdog",
                description="Distributed batch image classification on Ray.",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
            )
            return dataclasses.replace(parsed, command=tuple(job)) if job else parsed
    except SystemExit as error:
        if error.code == 2:
            raise UserInputError(_one_line(message.getvalue())) from None
        raise


def _one_line(boxed: str) -> str:
    """What the parser says in a box over many lines, as one line."""
    lines = [re.sub(r"[\u2500-\u257f]+", " ", line).strip() for line in boxed.splitlines()]
    return " ".join(" ".join(line for line in lines if line).split())


def entry_point() -> None:
    """The console script."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Ray and TensorFlow leave threads that can take seconds to end, or print as they go.
    os._exit(code)
