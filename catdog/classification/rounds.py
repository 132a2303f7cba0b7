"""What a driver does with the results folder, step by step, whoever does the shards.

Each round looks at the folder anew, and does what comes next there: plan what is new, do the shards
that are not done, tell that it is complete. A driver that is killed anywhere, and one that comes
second, find by the same look where they are. `benchmarks.simulation` runs this function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from catdog.errors import CatdogError
from catdog.results import ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catdog.results import Draft, Folder, PartCounts, Plan, Survey


class Steps(Protocol):
    """What a round needs of the job itself."""

    def draft(self, plan: Plan | None) -> Draft | None:
        """Write a next generation of what has changed; None where there is nothing to do."""

    def question(self) -> Mapping[str, Any]:
        """What decides the answers; asked where nothing has been begun."""

    def about(self) -> Mapping[str, Any]:
        """What else the record of a new job tells."""

    def refuse_another(self, recorded: Mapping[str, Any]) -> None:
        """Raise where the folder's job is not the one that is wanted."""

    def work(self, plan: Plan, found: Survey, todo: Sequence[int]) -> None:
        """Have shards done."""

    def summary(self, plan: Plan, counts: PartCounts) -> Mapping[str, Any]:
        """What the results hold, for `_summary.json`."""


def run(folder: Folder, steps: Steps, *, grow: bool) -> tuple[Plan, Mapping[str, Any], bool]:
    """Do what there is to do, until the results are complete.

    Args:
        folder: of the results.
        steps: the job.
        grow: whether what is new is planned where the results are complete.

    Returns:
        The plan, the summary, and whether this call did anything.

    Raises:
        UserInputError: by `steps`, or the folder holds another job's results.
        CatdogError: not all of it could be done; calling it again goes on.
    """
    did, worked = False, 0
    while True:
        plan = plans.read(folder)
        if plan is None:
            # Who is first has planned what was listed; who is not may have listed something else.
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
    """Plan the first generation. Whether it is this driver's: another one may be first."""
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
    """Plan the next generation. Whether it is to be tried again: another driver was first."""
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
