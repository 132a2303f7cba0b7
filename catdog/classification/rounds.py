"""The steps of a driver in the results folder, whoever classifies the shards.

Each round reads the folder and does the next step: plan new images, classify unfinished shards, write
the summary. So a driver that was killed anywhere, and a second driver, find out where they are. `benchmarks.simulation` runs this function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from catdog.errors import CatdogError
from catdog.results import ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catdog.results import Draft, Folder, PartCounts, Plan, Survey


class Steps(Protocol):
    """The job, as a round needs it."""

    def draft(self, plan: Plan | None) -> Draft | None:
        """Write the next generation with all changes; None if there is nothing to do."""

    def question(self) -> Mapping[str, Any]:
        """Everything that decides the answers; called if no job has begun here."""

    def about(self) -> Mapping[str, Any]:
        """The other content of a new job's record."""

    def refuse_another(self, recorded: Mapping[str, Any]) -> None:
        """Raise if the folder's job is another one."""

    def work(self, plan: Plan, found: Survey, todo: Sequence[int]) -> None:
        """Classify shards."""

    def summary(self, plan: Plan, counts: PartCounts) -> Mapping[str, Any]:
        """The counts of the results, for `_summary.json`."""


def run(folder: Folder, steps: Steps, *, grow: bool) -> tuple[Plan, Mapping[str, Any], bool]:
    """Take steps until the results are complete.

    Args:
        folder: of the results.
        steps: the job.
        grow: whether to plan new images once the results are complete.

    Returns:
        The plan, the summary, and whether this call did anything.

    Raises:
        UserInputError: by `steps`, or the folder holds another job's results.
        CatdogError: not everything could be done; another call continues.
    """
    did, worked = False, 0
    while True:
        plan = plans.read(folder)
        if plan is None:
            # The first driver has planned what it listed; another one may have listed something else.
            grow, did = grow and not _begin(folder, steps), True
            continue
        recorded = ledger.read_question(folder)
        if recorded is None or ledger.identity(recorded) != plan.job:
            raise CatdogError(f"{folder.uri}: {ledger.RUN_FILE} does not belong to its plan")
        steps.refuse_another(recorded)
        summary = ledger.read_summary(plan)
        if summary is not None:
            if not grow:
                return plan, summary, did
            grow = _grow(plan, steps)
            continue
        did = True
        found = part_files.survey(plan, recorded["model"])
        if found.strangers or found.overtaken:
            if _has_later(plan):
                continue
            _refuse_strangers(plan, found)
        todo = found.todo(plan.shard_images)
        if todo and worked < plan.generation:
            steps.work(plan, found, todo)
            worked = plan.generation
        elif todo:
            _refuse_unfinished(plan, found)
        else:
            ledger.publish(plan, steps.summary(plan, found.counts))


def _begin(folder: Folder, steps: Steps) -> bool:
    """Plan the first generation. Returns False if another driver was first."""
    draft = steps.draft(None)
    if draft is None:
        raise CatdogError(f"{folder.uri}: nothing to plan")
    try:
        recorded = ledger.begin(folder, steps.question(), steps.about())
        steps.refuse_another(recorded)
    except BaseException:
        draft.discard()
        raise
    return draft.commit(ledger.identity(recorded))


def _grow(plan: Plan, steps: Steps) -> bool:
    """Plan the next generation. Returns whether to try again, since another driver was first."""
    draft = steps.draft(plan)
    if draft is None:
        return False
    ledger.withdraw(plan.folder, plan.generation + 1)
    return not draft.commit(plan.job)


def _has_later(plan: Plan) -> bool:
    latest = plans.read(plan.folder)
    return latest is not None and latest.generation > plan.generation


def _refuse_strangers(plan: Plan, found: Survey) -> None:
    if found.strangers:
        raise CatdogError(
            f"{plan.output} holds result files of another job, such as {found.strangers[0]}"
        )


def _refuse_unfinished(plan: Plan, found: Survey) -> None:
    if found.faults:
        raise CatdogError(f"{plan.output}: {found.faults[0]}; run the same command again")
    classified, rejected = sum(found.counts.labels.values()), sum(found.counts.errors.values())
    raise CatdogError(
        f"{plan.output} holds {classified} classified and {rejected} rejected images of "
        f"{plan.images} planned; run the same command again to do the rest"
    )
