"""Turns a results folder into one page: self-contained HTML that opens from disk.

    part files --count_parts--> sums, a few chosen rows --thumbnails, figures, plots--> one page

File names, messages and pictures come from strangers. Jinja2 escapes names, control and direction
characters are spelled out, `pixels`' child process decodes pictures, and the page's
Content-Security-Policy permits neither network nor foreign scripts.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catdog import evaluation, storage
from catdog.errors import UserInputError
from catdog.observer import Observer
from catdog.reporting import sections, wording
from catdog.reporting.against import compare, read_other
from catdog.reporting.choice import choose, read_rows
from catdog.reporting.config import ReportConfig, ReportSummary
from catdog.reporting.figures import compute
from catdog.reporting.part_reader import PartReader, count_parts
from catdog.reporting.plots import speed_plot
from catdog.reporting.provenance import provenance
from catdog.reporting.rendering import render
from catdog.reporting.review import review
from catdog.reporting.thumbnails import SMALL, fetch_thumbnails
from catdog.results import ledger, plans

if TYPE_CHECKING:
    from catdog.evaluation import Evaluation
    from catdog.reporting.against import Other
    from catdog.reporting.candidates import Place
    from catdog.reporting.choice import Chosen
    from catdog.reporting.comparison import Comparison
    from catdog.reporting.figures import Figures
    from catdog.reporting.review import Review
    from catdog.reporting.thumbnails import Picture
    from catdog.results import Plan

REPORT_FILE = "_report.html"
"""Begins with an underscore, so that dataset readers skip the file in a results folder."""
EVALUATION_REPORT_FILE = "report.html"
"""The page's name for an evaluation, whose folder is not a dataset but contains one."""


@dataclass(frozen=True)
class Findings:
    """What was found in results, with the rows to show; their pictures are made afterwards.

    Attributes:
        plan: the plan of the results.
        run: the job's configuration, the content of `_run.json`.
        reader: reads the part files.
        figures: the numbers.
        chosen: the rows to show.
        other: labels of the same images in other results, or None.
        comparison: the comparison with these, or None.
        found_at: URI of the named folder: of the results, or of an evaluation.
        content: what the template shows besides single images.
    """

    plan: Plan
    run: dict[str, Any]
    reader: PartReader
    figures: Figures
    chosen: Chosen
    other: Other | None
    comparison: Comparison | None
    found_at: str
    content: dict[str, Any]


def examine(config: ReportConfig, observer: Observer) -> Findings:
    """Read all results once; for an unfinished job, those that exist.

    Raises:
        UserInputError: there are no results.
        CatdogError: a file of the results is damaged.
    """
    uri = _uri("RESULTS", config.results)
    plan, evaluated = _find("RESULTS", config.results, uri)
    run = ledger.read_json(plan.folder, ledger.RUN_FILE) or {}
    summary = ledger.read_json(plan.folder, ledger.SUMMARY_FILE) or {}
    observer.phase("reading the results")
    advised = evaluated.threshold if evaluated is not None else None
    given = evaluation.given_labels(uri) if evaluated is not None else None
    reader = PartReader(plan, run, advised or 0.0, config.thumbnails, given)
    tally = count_parts(reader, plan.images, observer)
    figures = compute(tally, plan.images, summary, evaluated)
    chosen = choose(tally, config.thumbnails)
    other = comparison = None
    if config.against is not None:
        other = _other(config.against, observer)
        comparison, changed = compare(reader, other)
        if not comparison.common:
            raise UserInputError(
                f"--against {config.against}: no image is in both results; compare results of the "
                "same images"
            )
        chosen = dataclasses.replace(chosen, changed=changed[: config.thumbnails])
    content = _content(plan, run, summary, figures)
    return Findings(plan, run, reader, figures, chosen, other, comparison, uri, content)


def page_of(
    found: Findings,
    rows: dict[Place, dict[str, Any]],
    pictures: dict[Place, Picture],
    review: Review,
    *,
    served: bool,
) -> str:
    """The page as HTML.

    Args:
        found: what it shows.
        rows: the result rows at the places of `found.chosen.described()`.
        pictures: of the places of `found.chosen.pictured()`.
        review: the rows that can be searched.
        served: whether a server gives its pictures and rows; else they are in the page.
    """
    content = found.content | {
        "review": review,
        "served": served,
        "comparison": found.comparison,
        "rejected": sections.rejected(found.figures, found.chosen, rows),
        **sections.galleries(found.figures, found.chosen, rows, pictures),
    }
    rows_from = "rows_of_server.js" if served else "rows_in_page.js"
    return render("report.html.j2", ("threshold.js", rows_from, "review.js"), content)


def write(config: ReportConfig, observer: Observer | None = None) -> ReportSummary:
    """Read the results and write the page; for an unfinished job, with the results that exist.

    Raises:
        UserInputError: there are no results, or the page cannot be written there.
        CatdogError: a file of the results is damaged.
    """
    started = time.monotonic()
    observer = observer or Observer()
    found = examine(config, observer)
    plan, figures, chosen = found.plan, found.figures, found.chosen
    name = REPORT_FILE if plan.output == found.found_at else EVALUATION_REPORT_FILE
    output = (
        _uri("--output", config.output) if config.output else storage.join(found.found_at, name)
    )
    described = read_rows(plan, chosen.described())
    pictures = fetch_thumbnails(plan, found.run, chosen.pictured(), observer)
    small = fetch_thumbnails(plan, found.run, chosen.small(), observer, SMALL)
    searchable = review(found.reader, chosen.pool(), pictures | small, {*pictures}, found.other)
    html = page_of(found, described, pictures, searchable, served=False).encode("utf-8", "replace")
    try:
        storage.write_atomic(output, html)
    except OSError as error:
        raise UserInputError(f"--output {output}: cannot be written: {error}") from error
    return ReportSummary(
        output=output,
        images=figures.images,
        classified=figures.classified,
        rejected=figures.rejected,
        accuracy=figures.truth.accuracy if figures.truth is not None else None,
        thumbnails=sum(
            picture.source is not None for picture in [*pictures.values(), *small.values()]
        ),
        searchable=searchable.rows,
        bytes=len(html),
        seconds=round(time.monotonic() - started, 2),
        comparison=found.comparison,
    )


def _uri(flag: str, text: str) -> str:
    try:
        return storage.to_uri(text)
    except ValueError as error:
        raise UserInputError(f"{flag} {text}: {error}") from error


def _other(against: str, observer: Observer) -> Other:
    """The labels of the results to compare with."""
    plan, _ = _find("--against", against, _uri("--against", against))
    observer.phase("reading the results to compare with")
    run = ledger.read_json(plan.folder, ledger.RUN_FILE) or {}
    return read_other(PartReader(plan, run))


def _find(flag: str, text: str, uri: str) -> tuple[Plan, Evaluation | None]:
    """The plan of results, or of an evaluation's results with its metrics.

    Raises:
        UserInputError: the folder is neither.
    """
    plan = plans.read(uri)
    if plan is not None:
        return plan, None
    plan = plans.read(storage.join(uri, evaluation.RESULTS_FOLDER))
    if plan is not None:
        return plan, evaluation.read(uri)
    raise UserInputError(
        f"{flag} {text}: no results there; name the --output folder of a `catdog classify` or "
        "`catdog evaluate` job"
    )


def _content(
    plan: Plan, run: dict[str, Any], summary: dict[str, Any], figures: Figures
) -> dict[str, Any]:
    """What the template shows besides single images."""
    parts = storage.join(plan.output, "part-*.parquet")
    parts = (storage.local_path(parts) if storage.is_local(parts) else parts).replace("'", "''")
    plot, unit = speed_plot(figures.speed, "speed") if figures.speed else (None, "")
    truth, evaluated = figures.truth, figures.evaluated
    return {
        "title": _title(figures),
        "figures": figures,
        "truth": sections.truth(figures.labels, truth) if truth is not None else None,
        "evaluated": sections.measured(evaluated) if evaluated is not None else None,
        "summary": summary,
        "started_at": run.get("started_at"),
        "name": plan.output,
        "query": f"select uri, error, error_detail from '{parts}' where error is not null",  # noqa: S608
        "speed_plot": plot,
        "speed_unit": unit,
        "stage_meanings": wording.STAGES,
        "provenance": provenance(plan, run, summary, figures),
        "limits": wording.flat(run.get("question", {})),
        **sections.labels(figures),
    }


def _title(figures: Figures) -> str:
    evaluated = figures.evaluated
    if evaluated is not None:
        if (several := evaluated.multi_label) is not None:
            area = several["mean_average_precision"]
            return f"mean average precision {area:.3f} of {wording.images(evaluated.images)}"
        share, images = wording.percent(evaluated.accuracy), wording.images(evaluated.images)
        return f"{share} of {images} right"
    done, planned = figures.classified, wording.images(figures.planned)
    return (
        f"{planned} classified" if done == figures.planned else f"{done:,} of {planned} classified"
    )
