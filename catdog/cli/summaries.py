"""The tables at the end of each command, on standard output."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from catdog import storage, terminal
from catdog.errors import counted, printable
from catdog.inputs import Columns
from catdog.storage import Stores
from catdog.training import CURVES_FILE

_TO_LOOK_AT = ("drawings/cat/cat.0.jpg", "drawings")  # of what a demo makes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catdog.classification import ClassifySummary
    from catdog.cli.arguments import Train
    from catdog.demo import DemoResult
    from catdog.diagnosis import Finding
    from catdog.evaluation import Evaluation
    from catdog.exchange import Exported, Packaged
    from catdog.prediction import Prediction
    from catdog.reporting import ReportSummary
    from catdog.reviewing import ReviewSummary
    from catdog.similarity import Copies, Likes
    from catdog.training import TrainResult


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
            ("decoding", _decoding(result)),
            ("model", result.model),
            ("curves", storage.join(result.output, CURVES_FILE)),
        ],
    )


def print_measure(command: Train) -> None:
    """The command that measures what was trained, if images were kept back for it."""
    if (words := measuring(command)) is not None:
        sys.stdout.write("\n  measure it on the images that were kept back\n")
        terminal.command_line(f"{terminal.called_as()} {words}")


def measuring(command: Train) -> str | None:
    """The command of `print_measure`, without the program; None if it needs flags of the reader's."""
    usual = command.columns == Columns() and command.stores == Stores()
    if not command.test or not usual or command.address is not None:
        return None
    run = command.output.rstrip("/")
    labels = () if command.labels is None else ("--labels", command.labels)
    words = ("evaluate", *command.images, "--model", run, "--part", "test", *labels)
    return shlex.join((*words, "--output", f"{run}-evaluation"))


def _decoding(result: TrainResult) -> str:
    if not result.decoding_s:
        return "nothing to do: the run was complete"
    rate = f"{result.decoded_images_per_s:,.0f} images/s"
    return f"{terminal.duration(result.decoding_s)}, {rate}"


def print_classified(summary: ClassifySummary) -> None:
    """The table at the end of a classify job."""
    rows: list[tuple[str, Any]] = [
        ("images", f"{summary.planned:,}"),
        *((label, f"{count:,}") for label, count in summary.labels.items()),
        ("rejected", f"{summary.rejected:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in summary.errors.items()),
    ]
    if summary.passed_over:
        kinds = [f"{count:,} {kind}" for kind, count in summary.passed_over.items()]
        rows.append(("not planned", ", ".join(kinds)))
    if summary.already_complete:
        rows.append(("this run", "nothing to do: the job was complete"))
    elif summary.images_this_run:
        stages = ", ".join(
            f"{stage} {terminal.duration(seconds)}" for stage, seconds in summary.stages_s.items()
        )
        rate = f"{summary.images_per_s:,.0f} images/s"
        rows += [
            ("this run", _this_run(summary)),
            ("throughput", f"{rate} while workers were busy, in {summary.precision}"),
            ("workers' time", stages),
            *(
                ("tried again", f"{counted(shards, 'shard')}: {cause}")
                for cause, shards in summary.retried_shards.items()
            ),
        ]
    rows.append(("results", summary.output))
    terminal.table("classified", rows)
    if summary.output.startswith("file://"):
        path = summary.output.removeprefix("file://")
        look = f"import pyarrow.dataset as ds; print(ds.dataset({path!r}).head(3).to_pylist())"
        sys.stdout.write("\n  the first three rows\n")
        terminal.command_line(f'{sys.executable} -c "{look}"')


def _this_run(summary: ClassifySummary) -> str:
    said = f"{counted(summary.images_this_run, 'image')} in {terminal.duration(summary.seconds)}"
    if summary.first_image_s is not None:
        said += f", the first after {terminal.duration(summary.first_image_s)}"
    return said


_SHOWN_CLASSES = 20


def print_evaluated(result: Evaluation) -> None:
    """The tables at the end of an evaluation."""
    interval = f"{result.accuracy_low:.1%} to {result.accuracy_high:.1%}"
    wanted = f"for {100 * result.precision_wanted:g}% right"
    rows: list[tuple[str, Any]] = [
        ("images", f"{result.images:,}, and {result.rejected:,} rejected")
    ]
    if (several := result.multi_label) is not None:
        f1 = f"micro {several['micro_f1']:.3f}, macro {several['macro_f1']:.3f}"
        rows += [
            ("mean average precision", f"{several['mean_average_precision']:.3f}"),
            ("F1", f1),
            ("all labels right", f"{result.accuracy:.1%} (95% interval {interval})"),
        ]
    else:
        rows += [
            ("accuracy", f"{result.accuracy:.1%} (95% interval {interval})"),
            ("calibration error", f"{result.ece or 0:.3f}"),
            (wanted, _advice(result)),
        ]
    for number, label in enumerate(result.labels[:_SHOWN_CLASSES]):
        numbers = result.classes[label]
        said = f"precision {numbers['precision']:.3f}, recall {numbers['recall']:.3f}"
        if several is not None:
            rows.append((label, f"{said}, F1 {numbers['f1']:.3f}"))
            continue
        others = zip(result.confusion[number], result.labels, strict=True)
        taken = sorted((pair for pair in others if pair[0] and pair[1] != label), reverse=True)
        if taken:
            many = ", ".join(f"{count:,} for {other}" for count, other in taken[:3])
            said += "; " + many.replace(" for ", " taken for ", 1)
        rows.append((label, said))
    if (more := len(result.labels) - _SHOWN_CLASSES) > 0:
        rows.append((f"{more:,} more classes", "in metrics.json"))
    terminal.table("evaluated", [*rows, ("details", result.output)])


def _advice(result: Evaluation) -> str:
    """How to get the wanted fraction of right labels."""
    from catdog import evaluation

    if result.threshold is None:
        return "no threshold is high enough"
    said = "no threshold is needed"
    if result.threshold:
        said = f"--min-probability {result.threshold:g} keeps {result.kept:.1%} of the labels"
    caution = evaluation.caution(result)
    return f"{said} ({caution})" if caution else said


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
        ("searchable", counted(summary.searchable, "image")),
    ]
    if (comparison := summary.comparison) is not None:
        rows.append(("changed", f"{comparison.changed:,} of {counted(comparison.common, 'image')}"))
        if comparison.mcnemar is not None:
            test = comparison.mcnemar
            said = f"{test.only_this:,} only here, {test.only_other:,} only there, p = {test.p:.2g}"
            rows.append(("right, McNemar", said))
    rows += [
        ("time", terminal.duration(summary.seconds)),
        ("open", summary.output),
    ]
    terminal.table("report", rows)


def print_opened(summary: ReviewSummary) -> None:
    """The table of a page that is served from now on."""
    rows: list[tuple[str, Any]] = [
        ("images", f"{summary.images:,}"),
        ("time", terminal.duration(summary.seconds)),
        ("new labels", summary.labels),
        ("marked", summary.marked),
        ("open", summary.url),
        ("end", "Ctrl-C"),
    ]
    terminal.table("review", rows)


_SHOWN_GROUPS = 10


def print_copies(found: Copies) -> None:
    """The table of pictures that occur more than once."""
    rows: list[tuple[str, Any]] = []
    for number, group in enumerate(found.groups[:_SHOWN_GROUPS], 1):
        rows += [
            (f"group {number}", f"{each['kind']}  {each['uri']}") for each in group[:_SHOWN_GROUPS]
        ]
        if (more := len(group) - _SHOWN_GROUPS) > 0:
            rows.append(("", f"and {more:,} more"))
    if (more := len(found.groups) - _SHOWN_GROUPS) > 0:
        rows.append((f"{more:,} more groups", f"in {found.table}"))
    rows += [
        ("images", f"{found.images:,}, and {found.rejected:,} rejected"),
        (
            "copies",
            f"{found.surplus:,} in {counted(len(found.groups), 'group')}, {found.exact:,} exact",
        ),
    ]
    if found.unread:
        rows.append(("no longer readable", counted(found.unread, "image")))
    terminal.table("copies", [*rows, ("table", found.table), ("open", found.output)])


def print_likes(found: Likes) -> None:
    """The table of the nearest pictures."""
    rows: list[tuple[str, Any]] = [
        (f"{each['cosine']:.3f}", f"{each['label']}  {each['uri']}")
        for theirs in found.found.values()
        for each in theirs
    ]
    rows += [("images", f"{found.images:,}"), ("table", found.table), ("open", found.output)]
    terminal.table("similar", rows)


def print_packaged(made: Packaged) -> None:
    """The table of a model that was packaged."""
    rows: list[tuple[str, Any]] = [("classes", ", ".join(made.labels[:_SHOWN_CLASSES]))]
    checked = "nothing; --check compares with known scores"
    if made.largest_difference is not None:
        checked = (
            f"{counted(made.checked, 'image')}, scores at most {made.largest_difference:.2g} apart"
        )
    rows += [("checked", checked), ("fingerprint", made.fingerprint), ("model", made.model)]
    terminal.table("packaged", rows)


def print_exported(made: Exported) -> None:
    """The table of a model that was exported."""
    parity = f"scores at most {made.largest_difference:.2g} apart"
    rows: list[tuple[str, Any]] = [
        ("files", ", ".join(made.files)),
        ("parity", f"{parity}, {made.same_labels} of {made.pictures} labels the same"),
        ("output", made.output),
    ]
    terminal.table("exported", rows)


def print_demo(result: DemoResult) -> None:
    """The tables at the end of a demo."""
    print_trained(result.trained)
    print_classified(result.classified)
    terminal.table(
        "rejected", [(name, f"{error}: {text}") for name, error, text in result.rejected]
    )
    print_evaluated(result.evaluated)


def print_next(output: str) -> None:
    """Commands to try next on a demo's output."""
    sys.stdout.write("\n  try next\n")
    for command in next_commands(output):
        terminal.command_line(f"{terminal.called_as()} {command}")


def next_commands(output: str) -> tuple[str, str, str]:
    """The commands of `print_next`, without the program."""
    demo = PurePosixPath(output)
    run, embedded = shlex.quote(str(demo / "run")), shlex.quote(str(demo / "embedded"))
    picture, drawings = (shlex.quote(str(demo / name)) for name in _TO_LOOK_AT)
    return (
        f"predict {picture} --model {run}",
        f"classify {drawings} --model {run} --embeddings --output {embedded}",
        f"duplicates {embedded}",
    )


def print_predicted(
    image: str, answer: Prediction, best: Sequence[tuple[str, float]] | None, *, as_json: bool
) -> None:
    """A line of one image: its label and probability, or why it has none.

    Args:
        image: what it is called.
        answer: the model's.
        best: its best classes with their probabilities, where they are asked for.
        as_json: an object in place of a text.
    """
    if as_json:
        fields = dataclasses.asdict(answer)
        del fields["embedding"]  # none was asked for
        if answer.labels is None:
            del fields["labels"]
        if best is not None:
            fields["top_labels"] = [label for label, _ in best] or None
            fields["top_probabilities"] = [probability for _, probability in best] or None
        text = json.dumps({"image": image} | fields, ensure_ascii=True)
    elif answer.error is not None:
        text = f"{image}: {answer.error}: {answer.error_detail}"
    else:
        text = f"{image}: {answer.label} {answer.probability:.4f}"
        for label, probability in (best or ())[1:]:
            text += f", {label} {probability:.4f}"
        if answer.labels is not None:
            text += f" ({'; '.join(answer.labels) or 'no label'})"
    # One line, whatever a file is called; ASCII of JSON has none of these.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    sys.stdout.write(text + "\n")


def print_finding(finding: Finding, *, as_json: bool) -> None:
    """A line of one check: whether it went well, what was found, what to do."""
    if as_json:
        text = json.dumps(dataclasses.asdict(finding), ensure_ascii=True)
    else:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        text = f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.said}{remedy}"
    sys.stdout.write(printable(text).encode("utf-8", "backslashreplace").decode() + "\n")
    sys.stdout.flush()
