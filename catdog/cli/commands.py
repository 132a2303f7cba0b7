"""The command line: parses into the jobs' own configurations, calls, prints, exits.

Exit codes: 0 done; 1 the job failed or too many images were rejected; 2 the user's input is wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import json
import os
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from catdog import storage, submission, terminal
from catdog.classification import ClassifyConfig, ClassifySummary
from catdog.demo import DemoConfig, DemoResult
from catdog.errors import CatdogError, UserInputError
from catdog.evaluation import EvaluateConfig, Evaluation
from catdog.model import folders
from catdog.reporting import ReportConfig, ReportSummary
from catdog.submission import SubmitConfig
from catdog.training import TrainConfig, TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Config = TypeVar(
    "Config", TrainConfig, ClassifyConfig, EvaluateConfig, DemoConfig, ReportConfig, SubmitConfig
)


@dataclass(frozen=True, kw_only=True)
class _Json:
    """What every command has.

    Attributes:
        json: print the summary as one JSON object, and nothing else.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class _Train(TrainConfig, _Json):
    """Train a CNN on labelled images, data-parallel over the workers.

    Example: catdog train photos/ --output runs/first --test 0.1
    """


@dataclass(frozen=True, kw_only=True)
class _Classify(ClassifyConfig, _Json):
    """Classify images in bulk into Parquet. Run it again to go on where it stopped.

    Example: catdog classify s3://bucket/archive.zip more/ --model runs/first --output results

    Attributes:
        no_report: write no page to look at into the results folder at the end.
    """

    no_report: bool = False


@dataclass(frozen=True, kw_only=True)
class _Demo(DemoConfig, _Json):
    """The whole story on drawn pictures: train, classify an archive, measure, look.

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

    Attributes:
        no_report: write no page to look at.
    """

    no_report: bool = False


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
        page = None if command.no_report else _page(summary.output, progress)
    _show(command, summary, print_classified)
    if page is not None and not command.json:
        print_reported(page)
    _refuse_rejected(summary.rejected, summary.planned, config.max_rejected)
    return 0


def _refuse_rejected(rejected: int, images: int, limit: float) -> None:
    """Fail where more than the fraction `limit` was rejected; all that can be is done by then.

    Raises:
        CatdogError: says so.
    """
    share = rejected / images
    if share > limit:
        raise CatdogError(
            f"{rejected:,} of {images:,} images were rejected ({share:.0%}), more than "
            f"--max-rejected {limit:.0%}; all results are written"
        )


def _page(output: str, progress: terminal.Progress) -> ReportSummary | None:
    """The page of finished results or of an evaluation; without it they are none the worse."""
    from catdog import reporting

    try:
        return reporting.write(ReportConfig(results=output), progress)
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

    config = _plain(EvaluateConfig, command)
    with terminal.Progress("catdog-evaluate") as progress:
        result = evaluation.evaluate(config, progress)
        page = None if command.no_report else _page(result.output, progress)
    _show(command, result, print_evaluated)
    if page is not None and not command.json:
        print_reported(page)
    _refuse_rejected(result.rejected, result.images + result.rejected, config.max_rejected)
    return 0


def _advice(result: Evaluation) -> str:
    """What to do so that as many labels are right as was wanted."""
    if result.threshold is None:
        return "no threshold is high enough"
    if result.threshold == 0:
        return "no threshold is needed"
    return f"--min-probability {result.threshold:g} keeps {result.kept:.1%} of the labels"


_SHOWN_CLASSES = 20


def print_evaluated(result: Evaluation) -> None:
    """The tables at the end of an evaluation."""
    interval = f"{result.accuracy_low:.1%} to {result.accuracy_high:.1%}"
    wanted = f"for {100 * result.precision_wanted:g}% right"
    rows: list[tuple[str, Any]] = [
        ("images", f"{result.images:,}, and {result.rejected:,} rejected"),
        ("accuracy", f"{result.accuracy:.1%} (95% interval {interval})"),
        ("calibration error", f"{result.ece:.3f}"),
        (wanted, _advice(result)),
    ]
    for number, label in enumerate(result.labels[:_SHOWN_CLASSES]):
        numbers = result.classes[label]
        said = f"precision {numbers['precision']:.3f}, recall {numbers['recall']:.3f}"
        others = zip(result.confusion[number], result.labels, strict=True)
        taken = sorted((pair for pair in others if pair[0] and pair[1] != label), reverse=True)
        if taken:
            many = ", ".join(f"{count:,} for {other}" for count, other in taken[:3])
            said += "; " + many.replace(" for ", " taken for ", 1)
        rows.append((label, said))
    if (more := len(result.labels) - _SHOWN_CLASSES) > 0:
        rows.append((f"{more:,} more classes", "in metrics.json"))
    terminal.table("evaluated", [*rows, ("details", result.output)])


def _demo(command: _Demo) -> int:
    from catdog import demo

    with terminal.Progress("catdog-demo") as progress:
        result = demo.run(_plain(DemoConfig, command), progress)
        page = _page(result.evaluated.output, progress)
    _show(command, result, _print_demo)
    if page is not None and not command.json:
        print_reported(page)
    return 0


def _print_demo(result: DemoResult) -> None:
    print_trained(result.trained)
    print_classified(result.classified)
    terminal.table(
        "rejected", [(name, f"{error}: {text}") for name, error, text in result.rejected]
    )
    print_evaluated(result.evaluated)


def _report(command: _Report) -> int:
    from catdog import reporting

    with terminal.Progress("catdog-report") as progress:
        summary = reporting.write(_plain(ReportConfig, command), progress)
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

    Example: catdog submit classify s3://bucket/in --output s3://bucket/out --address http://h:8265
    """


def _submit(command: _Submit) -> int:
    if not command.attach:
        # The command's own parser and checks, before anything is sent.
        job = _parse(_job_arguments(command.command))
        for _, flag, place in _places(job):
            submission.check_reachable(flag, place)
            _uri(flag, place)  # credentials in it would stand in the cluster's list of jobs
    return submission.submit(_plain(SubmitConfig, command))


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


@dataclass(frozen=True, kw_only=True)
class _Completion:
    """Print what makes the shell complete commands, flags and their values.

    Example: catdog completion bash > ~/.local/share/bash-completion/completions/catdog

    Attributes:
        shell: bash, zsh or fish.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]


# What tyro's scripts lack: file names where any may stand. In bash they take the place of an empty
# word, which is what tyro offers where it has nothing.
_BASH_FILES = """
_catdog_or_files() {
  _tyro_catdog "$@"
  if [[ ${#COMPREPLY[@]} -eq 1 && -z ${COMPREPLY[0]} ]]; then COMPREPLY=(); fi
  return 0
}
complete -o bashdefault -o default -o filenames -F _catdog_or_files catdog
"""
_FISH_FILES = "\ncomplete --command catdog --force-files\n"
_ZSH_DESCRIBE = "  _describe 'catdog completions' completion_array\n"
_ZSH_FILES = """\
  local found=1
  [[ -n "$completions" ]] && _describe 'catdog completions' completion_array && found=0
  [[ $CURRENT -gt 2 && "${words[CURRENT]}" != -* ]] && _files && found=0
  return found
"""


def _completion(command: _Completion) -> int:
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        _call_parser(["--tyro-write-completion", command.shell, "-"])
    # A description of two lines would be two words to complete.
    text = re.sub(
        r"^COMPLETION_SPEC = .*$",
        lambda found: re.sub(r"\\+n", " ", found[0]),
        script.getvalue(),
        flags=re.MULTILINE,
    )
    if command.shell == "zsh":
        text = text.replace(_ZSH_DESCRIBE, _ZSH_FILES)
    sys.stdout.write(text + {"bash": _BASH_FILES, "fish": _FISH_FILES, "zsh": ""}[command.shell])
    return 0


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
    "completion": (_Completion, _completion),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, never raises for what a user can cause."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((argument for argument in arguments if argument in _COMMANDS), "")
    try:
        command = _parse(arguments)
        if not isinstance(command, _Submit):
            _check_places(command)
        run = next(run for kind, run in _COMMANDS.values() if type(command) is kind)
        return run(command)
    except UserInputError as error:
        terminal.error_line(verb, str(error))
        return 2
    except CatdogError as error:
        terminal.error_line(verb, str(error))
        return 1
    except OSError as error:
        # A full disk, a folder that may not be written, a store that refuses.
        terminal.error_line(verb, _what_and_where(error))
        return 1
    except KeyboardInterrupt:
        terminal.error_line(verb, "interrupted; run the same command again to go on")
        return 130


def _what_and_where(error: OSError) -> str:
    reason = error.strerror or str(error) or repr(error)
    return f"{error.filename}: {reason}" if error.filename else reason


# What is no place but a name.
_NAMES = {"model": (folders.SHIPPED,), "weights": ("imagenet", "none")}


def _places(command: Any) -> Iterator[tuple[str, str, str]]:
    """Every path or URI among a command's arguments: its field, flag and text."""
    for field in ("images", "results", "output", "model", "weights"):
        value = getattr(command, field, None)
        flag = field.upper() if field in _POSITIONAL else f"--{field}"
        for text in value if isinstance(value, tuple) else (value,):
            if text is not None and text not in _NAMES.get(field, ()):
                yield field, flag, text


def _check_places(command: Any) -> None:
    """Refuse what is no path or URI, and an output that no folder can be, before anything starts.

    Raises:
        UserInputError: names the flag.
    """
    for field, flag, text in _places(command):
        uri = _uri(flag, text)
        if field == "output" and storage.is_local(uri):
            _check_output(text, Path(storage.local_path(uri)), isinstance(command, _Report))


def _uri(flag: str, text: str) -> str:
    try:
        return storage.to_uri(text)
    except ValueError as error:
        named = flag if "@" in text else f"{flag} {text}"  # a password is not for the screen
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


def _parse(arguments: list[str]) -> Any:
    if arguments[:1] == ["--version"]:
        from catdog.version import __version__

        sys.stdout.write(f"catdog {__version__}\n")
        raise SystemExit(0)
    if not arguments:
        arguments = ["--help"]
    job: list[str] = []
    if arguments[0] == "submit":
        own, job = submission.split(arguments[1:])
        arguments = ["submit", *own]
    for flag, value in itertools.pairwise([*arguments, "-"]):
        if flag.startswith("--") and (value == "" or flag.endswith("=")):
            raise UserInputError(f"{flag.rstrip('=')}: its value is empty")
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed = _call_parser(arguments)
            return dataclasses.replace(parsed, command=tuple(job)) if job else parsed
    except SystemExit as error:
        if error.code == 2:
            raise UserInputError(_wrong_usage(arguments, message.getvalue())) from None
        raise


@functools.cache
def _commands() -> Any:
    """The union of all commands' classes, as tyro wants it."""
    union: Any = None
    for name, (kind, _) in _COMMANDS.items():
        _describe(kind)
        choice: Any = Annotated[kind, tyro.conf.subcommand(name)]
        union = choice if union is None else union | choice
    return union


def _call_parser(arguments: Sequence[str]) -> Any:
    return tyro.cli(
        _commands(),
        prog="catdog",
        description="Distributed batch image classification on Ray.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        registry=_OPTIONAL_VALUES,
    )


def _describe(kind: type[Any]) -> None:
    """Have the help say IMAGES where it would say STR, and be silent of defaults None and False.

    The docstrings say what leaving out such a flag means.
    """
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in _POSITIONAL:
            described = tyro.conf.arg(metavar=_POSITIONAL[field.name], help_behavior_hint="")
        elif field.default is None or field.default is False:
            described = tyro.conf.arg(help_behavior_hint="")
        else:
            continue
        kind.__annotations__[field.name] = Annotated[hints[field.name], described]


_POSITIONAL = {"images": "IMAGES ...", "results": "RESULTS", "shell": "{bash,zsh,fish}"}
_OPTIONAL_VALUES = ConstructorRegistry()


@_OPTIONAL_VALUES.primitive_rule
def _optional_value(info: PrimitiveTypeInfo) -> Any:
    """`int | None` is an INT in the help: leaving the flag out is the way to say None."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, types.UnionType) or types.NoneType not in kinds:
        return None
    (kind,) = (each for each in kinds if each is not types.NoneType)
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [] if value is None else spec.str_from_instance(value),
    )


def _wrong_usage(arguments: Sequence[str], boxed: str) -> str:
    """What the parser says in a box over many lines, as one line that says what to do."""
    verb, rest = arguments[0], arguments[1:]
    if verb not in _COMMANDS:
        if verb.startswith("-"):
            return f"{verb}: name a command first: {', '.join(_COMMANDS)}"
        return f"{verb}: no such command{_meant(verb, _COMMANDS) or _one_of(_COMMANDS)}"
    flags = _flags(verb)
    given = [each.split("=", 1)[0].replace("_", "-") for each in rest if each.startswith("--")]
    short = [each for each in rest if re.fullmatch(r"-[a-z][a-z-]+", each)]
    for flag in (*given, *short):
        if flag not in flags:
            said = _meant(flag, flags)
            return f"{flag}: no such flag{said}; `catdog {verb} --help` shows all"
    text = _folded(boxed)
    if "Missing from" in text:
        kind = _COMMANDS[verb][0]
        missing = [flag for flag in _required(kind) if flag not in given]
        if rest and not rest[0].startswith("-"):
            missing = [flag for flag in missing if flag.startswith("-")]
        example = re.search(r"Example: (.+)", kind.__doc__ or "")
        said = f"; for example: {example[1]}" if example else ""
        return f"{' and '.join(missing)}: missing{said}"
    if found := re.search(r"Missing value for argument '(--[\w-]+)'", text):
        return f"{found[1]}: its value is missing"
    if found := re.search(
        r"invalid choice '(.*)' for argument '(.+?)'\. .*? one of \((.*)\)", text
    ):
        choices = [each.strip(" '") for each in found[3].split(",") if each.strip()]
        return f"{found[2]} {found[1]}: {_one_of(choices).removeprefix('; ')}"
    if found := re.search(
        r"Error parsing (--[\w-]+): (invalid literal|could not).*: '(.*?)'", text
    ):
        number = "whole number" if found[2] == "invalid literal" else "number"
        return f"{found[1]} {found[3]}: is no {number}"
    if found := re.search(r"Unrecognized options: (\S+?),?( |$)", text):
        before = "; all that is no flag stands together, before the flags" if len(rest) > 1 else ""
        return f"{found[1]}: not expected here{before}; `catdog {verb} --help` shows what is"
    return text


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _one_of(choices: Iterable[str]) -> str:
    return f"; choose one of {', '.join(choices)}"


def _flags(verb: str) -> list[str]:
    """Every flag of a command, from its help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _call_parser([verb, "--help"])
    return re.findall(r"^\W+(?:-h, )?(--[a-z][\w-]*)", text.getvalue(), re.MULTILINE)


def _required(kind: type[Any]) -> list[str]:
    """What a command cannot do without, as users write it."""
    absent = dataclasses.MISSING
    names = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is absent and field.default_factory is absent
    ]
    return [name.upper() if name in _POSITIONAL else f"--{name}" for name in names]


def _folded(boxed: str) -> str:
    """A box of several lines as one line, without its frame, its title and its last words."""
    lines = [re.sub(r"[\u2500-\u257f]+", " ", line).strip() for line in boxed.splitlines()]
    text = " ".join(" ".join(line for line in lines[1:] if line).split())
    return re.sub(r" ?For full helptext, .*", "", text)


def entry_point() -> None:
    """The console script."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Ray and TensorFlow leave threads that can take seconds to end, or print as they go.
    os._exit(code)
