"""Runs commands: parses into the jobs' own configurations, calls, prints, exits.

Exit codes: 0 done; 1 the job failed or too many images were rejected; 2 the user's input is wrong;
70 a fault of catdog itself; 130 interrupted; 143 ended by SIGTERM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from catdog import storage, submission, terminal
from catdog.classification import ClassifyConfig
from catdog.cli import arguments as asked
from catdog.cli import completion, ending, event_log, parsing, summaries, watching
from catdog.demo import DemoConfig
from catdog.diagnosis import DoctorConfig
from catdog.errors import CatdogError, UserInputError, being_read, full_disk
from catdog.evaluation import EvaluateConfig
from catdog.exchange import ExportConfig, PackageConfig
from catdog.model import folders
from catdog.observer import both
from catdog.reporting import ReportConfig, ReportSummary
from catdog.reviewing import ReviewConfig
from catdog.similarity import DuplicatesConfig, LeaksConfig, SimilarConfig
from catdog.submission import SubmitConfig
from catdog.training import TrainConfig, claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Config = TypeVar("Config")


def _train(command: asked.Train) -> int:
    from catdog import exchange, training

    with event_log.opened(command, "train") as log:
        with (
            terminal.progress("catdog-train") as progress,
            exchange.tracked(command.mlflow, command.output, command.mlflow_model) as run,
        ):
            observer = both(progress, log if run is None else both(log, run))
            result = training.train(_plain(TrainConfig, command), observer)
            if run is not None:
                progress.phase("sending the run to MLflow")
                run.finish(result, command.mlflow_model)
        log.event("summary", **event_log.summary(result))
        _show(command, result, summaries.print_trained)
        if not command.json:
            summaries.print_measure(command)
    return 0


def _classify(command: asked.Classify) -> int:
    if command.watch is None:
        return _classify_once(command)
    if not command.watch > 0:
        raise UserInputError("--watch must be more than 0 seconds")
    return watching.repeat(lambda: _classify_once(command), command.watch, "classify")


def _classify_once(command: asked.Classify) -> int:
    from catdog import classification

    config = _plain(ClassifyConfig, command)
    with event_log.opened(command, "classify") as log:
        with terminal.progress("catdog-classify") as progress:
            summary = classification.classify(config, both(progress, log))
            page = None if command.no_report else _page(summary.output, progress)
        log.event("summary", **event_log.summary(summary))
        _show(command, summary, summaries.print_classified, page)
        _refuse_rejected(summary.rejected, summary.planned, config.max_rejected)
    return 0


def _evaluate(command: asked.Evaluate) -> int:
    from catdog import evaluation

    config = _plain(EvaluateConfig, command)
    with event_log.opened(command, "evaluate") as log:
        with terminal.progress("catdog-evaluate") as progress:
            result = evaluation.evaluate(config, both(progress, log))
            page = None if command.no_report else _page(result.output, progress)
        log.event("summary", **event_log.summary(result))
        _show(command, result, summaries.print_evaluated, page)
        _refuse_rejected(result.rejected, result.images + result.rejected, config.max_rejected)
    return 0


def _demo(command: asked.Demo) -> int:
    from catdog import demo

    with terminal.progress("catdog-demo") as progress:
        result = demo.run(_plain(DemoConfig, command), progress)
        page = _page(result.evaluated.output, progress)
    _show(command, result, summaries.print_demo, page)
    if not command.json:
        summaries.print_next(command.output)
    return 0


def _predict(command: asked.Predict) -> int:
    from catdog import prediction

    _refuse_collections(command.images)
    named = list(_pictures(command.images))
    with storage.blamed_on(f"--model {command.model}"):
        model = prediction.load(command.model, precision=command.precision, engine=command.engine)
    answers = model.predict([picture for _, picture in named])
    for (image, _), answer in zip(named, answers, strict=True):
        best = None if command.top is None else model.best(answer, command.top)
        summaries.print_predicted(image, answer, best, as_json=command.json)
    return 1 if any(answer.error for answer in answers) else 0


def _pictures(images: Sequence[str]) -> Iterator[tuple[str, str | bytes]]:
    """The name of each image, and the image: a path, a URI, or the bytes on standard input."""
    from catdog import inputs

    limits = inputs.SourceLimits()
    for image in images:
        if image == "-":
            if sys.stdin is None or sys.stdin.isatty():  # None: it is closed
                raise UserInputError("IMAGES -: nothing is sent to standard input")
            yield image, sys.stdin.buffer.read(limits.max_bytes + 1)
        elif Path(image).is_fifo():  # a shell's <(command)
            with Path(image).open("rb") as pipe:
                yield image, pipe.read(limits.max_bytes + 1)
        elif _is_glob(image):
            for batch in inputs.list_images([image], limits):
                for uri in batch["uri"].to_pylist():
                    yield uri, uri
        else:
            yield image, image


def _is_glob(image: str) -> bool:
    """Whether it is a pattern: URLs and members of archives have such characters, too, and so may names."""
    from catdog import inputs

    plain = "::" in image or image.startswith(("http://", "https://"))
    return not plain and inputs.is_glob(image) and not storage.exists(_uri("IMAGES", image))


def _refuse_collections(images: Sequence[str]) -> None:
    """Refuse what holds many images: folders, and archives, lists and tables by their names."""
    from catdog import inputs

    for image in images:
        if "::" in image or image == "-" or _is_glob(image):
            continue
        uri = _uri("IMAGES", image)
        folder = uri.endswith("/") or (
            storage.is_local(uri) and Path(storage.local_path(uri)).is_dir()
        )
        if kind := "a folder" if folder else inputs.collection_as(uri):
            raise UserInputError(
                f"{image}: is {kind}; name images, or use "
                f"`{terminal.called_as()} classify {shlex.quote(image)} --output results`"
            )


def _report(command: asked.Report) -> int:
    from catdog import reporting

    return _watched(command, ReportConfig, reporting.write, summaries.print_reported)


def _review(command: asked.Review) -> int:
    from catdog import reviewing

    with contextlib.ExitStack() as stack:
        with terminal.progress("catdog-review") as progress:
            opened = stack.enter_context(reviewing.opened(_plain(ReviewConfig, command), progress))
        _show(command, opened.summary, summaries.print_opened)
        sys.stdout.flush()
        opened.run()
    return 0


def _duplicates(command: asked.Duplicates) -> int:
    from catdog import similarity

    return _watched(command, DuplicatesConfig, similarity.duplicates, summaries.print_copies)


def _leaks(command: asked.Leaks) -> int:
    from catdog import similarity

    return _watched(command, LeaksConfig, similarity.leaks, summaries.print_copies)


def _similar(command: asked.Similar) -> int:
    from catdog import similarity

    return _watched(command, SimilarConfig, similarity.similar, summaries.print_likes)


def _package(command: asked.Package) -> int:
    from catdog import exchange

    _show(command, exchange.package(_plain(PackageConfig, command)), summaries.print_packaged)
    return 0


def _export(command: asked.Export) -> int:
    from catdog import exchange

    _show(command, exchange.export(_plain(ExportConfig, command)), summaries.print_exported)
    return 0


def _submit(command: asked.Submit) -> int:
    tensorflow = True
    if not command.attach:
        # The command's own parser and checks, before anything is sent.
        job = parsing.parse(parsing.job_arguments(command.command))
        for _, flag, place in _places(job):
            submission.check_reachable(flag, place)
            _uri(flag, place)  # credentials in it would stand in the cluster's list of jobs
        tensorflow = not isinstance(job, asked.Classify) or job.engine == "tensorflow"
    return submission.submit(_plain(SubmitConfig, command), tensorflow=tensorflow)


def _doctor(command: asked.Doctor) -> int:
    from catdog import diagnosis

    address = command.address or os.environ.get("RAY_ADDRESS", "")
    is_job_server = address.startswith(("http://", "https://"))
    findings = diagnosis.examine(
        _plain(DoctorConfig, command),
        (lambda: submission.look(address)) if is_job_server else None,
    )
    well = True
    while True:
        with terminal.progress("catdog-doctor"):  # keeps what libraries print away from the lines
            finding = next(findings, None)
        if finding is None:
            return 0 if well else 1
        well = well and finding.ok
        summaries.print_finding(finding, as_json=command.json)


def _completion(command: asked.Completion) -> int:
    sys.stdout.write(completion.script(command.shell))
    return 0


def _page(output: str, progress: terminal.Progress) -> ReportSummary | None:
    """The page of finished results or of an evaluation; results count even without it."""
    from catdog import reporting

    try:
        return reporting.write(ReportConfig(results=output), progress)
    except (CatdogError, OSError) as error:
        progress.line(f"no report: {error}")
        return None


def _refuse_rejected(rejected: int, images: int, limit: float) -> None:
    """Fail if more than the fraction `limit` was rejected; by then everything else is done.

    Raises:
        CatdogError: says so.
    """
    share = rejected / max(1, images)
    if share > limit:
        raise CatdogError(
            f"{rejected:,} of {images:,} images were rejected ({share:.0%}), more than "
            f"--max-rejected {limit:.0%}; all results are written"
        )


def _plain(kind: type[Config], command: Any) -> Config:
    """The job's configuration without the command line's own flags."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: getattr(command, field.name) for field in fields})


def _watched(
    command: asked.Summarised,
    kind: type[Config],
    job: Callable[[Config, terminal.Progress], Any],
    table: Callable[[Any], None],
) -> int:
    """Run a job with its progress on the terminal, and print its result."""
    with terminal.progress(f"catdog-{type(command).__name__.lower()}") as progress:
        result = job(_plain(kind, command), progress)
    _show(command, result, table)
    return 0


def _show(
    command: asked.Summarised,
    result: Any,
    table: Callable[[Any], None],
    page: ReportSummary | None = None,
) -> None:
    """Print the result: one JSON object for scripts, else a table."""
    if command.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(result), ensure_ascii=True) + "\n")
    else:
        table(result)
        if page is not None:
            summaries.print_reported(page)


_RUN: dict[type[Any], Callable[[Any], int]] = {
    asked.Demo: _demo,
    asked.Train: _train,
    asked.Classify: _classify,
    asked.Evaluate: _evaluate,
    asked.Predict: _predict,
    asked.Report: _report,
    asked.Review: _review,
    asked.Duplicates: _duplicates,
    asked.Similar: _similar,
    asked.Leaks: _leaks,
    asked.Package: _package,
    asked.Export: _export,
    asked.Submit: _submit,
    asked.Doctor: _doctor,
    asked.Completion: _completion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, never raises."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((argument for argument in arguments if argument in asked.COMMANDS), "")
    try:
        command = parsing.parse(arguments)
        if not isinstance(command, asked.Submit):
            _check_places(command)
        with (
            ending.on_sigterm(f"catdog {verb}: {ending.how_to_go_on(verb)}"),
            storage.chosen(command),
        ):
            return _RUN[type(command)](command)
    except (Exception, KeyboardInterrupt) as error:
        _tell(verb, error, debug="--debug" in arguments)
        return ending.exit_code(error)


def _tell(verb: str, error: BaseException, *, debug: bool) -> None:
    """One line that says why a command ends."""
    if isinstance(error, CatdogError):
        terminal.error_line(verb, str(error))
    elif isinstance(error, OSError):
        # A folder that may not be written, a store that refuses, a full disk.
        terminal.error_line(verb, _what_and_where(error))
    elif isinstance(error, KeyboardInterrupt):
        terminal.error_line(verb, "interrupted; run the same command again to continue")
    elif ending.is_missing_package(error):
        name = getattr(error, "name", "")
        terminal.error_line(verb, f"this Python has no {name}; `pip install catdog-ray` brings it")
    else:
        _tell_of_fault(verb, error, debug=debug)


def _tell_of_fault(verb: str, error: BaseException, *, debug: bool) -> None:
    """One line about an unforeseen error, with the input that was being read, if that is known."""
    log = getattr(error, "kept_in", None) or terminal.keep_traceback(
        error, terminal.log_file(f"catdog-{verb}".rstrip("-"))
    )
    where = "".join(f" while reading {name}" for name in being_read(error))
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if debug:
        traceback.print_exception(error)
    terminal.error_line(
        verb,
        f"a fault of catdog itself{where}: {what} (the traceback is in {log}; --debug shows it)",
    )


def _what_and_where(error: OSError) -> str:
    if said := full_disk(error):
        # Errors without a name are mostly of libraries, which write to the folder for temporary files.
        place = error.filename or tempfile.gettempdir()
        return f"{place}: {said}; free some space, then run the same command again"
    reason = error.strerror or str(error) or repr(error)
    return f"{error.filename}: {reason}" if error.filename else reason


# What is no place but a name.
_RESULTS = ("results", "train_results", "test_results")
_PAGES = (
    asked.Report,
    asked.Review,
    asked.Duplicates,
    asked.Similar,
    asked.Leaks,
)  # whose output is a file
_NAMES = {
    "model": folders.SHIPPED_MODELS,
    "teacher": folders.SHIPPED_MODELS,
    "weights": ("imagenet", "none"),
}


def _places(command: Any) -> Iterator[tuple[str, str, str]]:
    """Every path or URI among a command's arguments: its field, flag and text."""
    tables = () if isinstance(command, asked.Package) else ("labels", "thresholds")
    for field in ("images", "places", *_RESULTS, "output", "model", "teacher", "weights", *tables):
        value = getattr(command, field, None)
        flag = parsing.written(field)
        for text in value if isinstance(value, tuple) else (value,):
            registered = field == "model" and text is not None and folders.is_registered(text)
            if text is not None and not registered and text not in _NAMES.get(field, ()):
                yield field, flag, text


def _check_places(command: Any) -> None:
    """Refuse bad paths and URIs, and an output that cannot be a folder, before anything starts.

    Raises:
        UserInputError: names the flag.
    """
    for field, flag, text in _places(command):
        uri = _uri(flag, text)
        if field == "output" and isinstance(command, asked.Train):
            claims.refuse_other_stores(text)
        elif field == "output" and not uri.startswith(("file://", "s3://", "gs://", "az://")):
            raise UserInputError(
                f"{flag} {text}: results go to a local folder, to s3://, gs:// or az://"
            )
        if field == "output" and storage.is_local(uri):
            _check_output(text, Path(storage.local_path(uri)), isinstance(command, _PAGES))


def _uri(flag: str, text: str) -> str:
    try:
        return storage.to_uri(text)
    except ValueError as error:
        named = flag if "@" in text else f"{flag} {text}"  # a password must not be on the screen
        raise UserInputError(f"{named}: {error}") from error


def _check_output(text: str, path: Path, is_file: bool) -> None:
    if is_file:
        if path.is_dir():
            raise UserInputError(f"--output {text}: is a folder; name a file, such as page.html")
        path = path.parent
    elif path.exists() and not path.is_dir():
        raise UserInputError(f"--output {text}: is a file; name a folder")
    existing = next(each for each in (path, *path.parents) if each.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserInputError(f"--output {text}: {existing} cannot be written; name another place")


def entry_point() -> None:
    """The console script."""
    # In this process a thread of Ray Data that outlives its job would start a cluster. A program that
    # calls jobs may want Ray to start by itself afterwards; Ray reads it when it is imported.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Ray and TensorFlow leave threads that can take seconds to end, or print as they go.
    os._exit(code)
