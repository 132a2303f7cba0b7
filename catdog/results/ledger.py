"""Whose results a folder holds, and whether they are complete: `_run.json` and `_summary.json`.

The record is created, never read and then written: if two jobs begin in one folder, one wins. The
summary says that the results are complete; it is removed before the next generation begins.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from catdog.errors import CatdogError
from catdog.results import damage, plans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catdog.results.folder import Folder
    from catdog.results.plans import Plan

RUN_FILE = "_run.json"
SUMMARY_FILE = "_summary.json"
_QUESTION = "question"
_GENERATION = "generation"


def identity(question: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what decides the answers of a job."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """A JSON object in the folder; None where there is none."""
    found = folder.read(name)
    return None if found is None else _object(folder, name, found[0])


def _object(folder: Folder, name: str, data: bytes) -> dict[str, Any]:
    with damage.named(f"{folder.uri}/{name}"):
        content = json.loads(data)
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
        return content


def as_json(content: Mapping[str, Any]) -> bytes:
    """A JSON object as a file for people, whatever the names in it."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace")


def read_question(folder: Folder) -> dict[str, Any] | None:
    """What decides the answers of the job in this folder; None where there is no job."""
    record = read_json(folder, RUN_FILE)
    if record is None:
        return None
    with damage.named(f"{folder.uri}/{RUN_FILE}"):
        question = record[_QUESTION]
        if not isinstance(question, dict):
            raise TypeError("its question is not a JSON object")
        return question


def begin(folder: Folder, question: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder this job's, if it is nobody's.

    Args:
        folder: of the results.
        question: what decides the answers.
        about: what else to record.

    Returns:
        The question of the job that owns the folder: another job's, if that was first.
    """
    folder.create(RUN_FILE, as_json({**about, _QUESTION: question}))
    recorded = read_question(folder)
    if recorded is None:
        raise CatdogError(f"{folder.uri}/{RUN_FILE} is gone; run the same command again")
    return recorded


def withdraw(folder: Folder, before: int) -> dict[str, Any] | None:
    """Remove a summary of an earlier generation than this one. Returns the summary that is then there."""
    while True:
        found = folder.read(SUMMARY_FILE)
        if found is None:
            return None
        summary = _object(folder, SUMMARY_FILE, found[0])
        with damage.named(f"{folder.uri}/{SUMMARY_FILE}"):
            if type(summary[_GENERATION]) is not int:
                raise TypeError("its generation is not a number")
        if summary[_GENERATION] >= before:
            return summary
        folder.remove(SUMMARY_FILE, found[1])


def read_summary(plan: Plan) -> dict[str, Any] | None:
    """The summary of a plan's latest generation; one of an earlier generation is removed.

    Raises:
        DamagedError: it names a generation that nobody planned, for which a driver would wait for ever.
    """
    summary = withdraw(plan.folder, plan.generation)
    if summary is None or summary[_GENERATION] == plan.generation:
        return summary
    latest = plans.read(plan.folder)  # another driver may have continued
    if latest is None or latest.generation < summary[_GENERATION]:
        raise damage.DamagedError(
            f"{plan.output}/{SUMMARY_FILE} is damaged: it belongs to generation {summary[_GENERATION]}, "
            f"but the plan has {plan.generation}"
        )
    return None


def publish(plan: Plan, summary: Mapping[str, Any]) -> None:
    """Record that the plan's latest generation is complete, unless a later one has begun."""
    folder, data = plan.folder, as_json({**summary, _GENERATION: plan.generation})
    while not folder.create(SUMMARY_FILE, data):
        if withdraw(folder, plan.generation) is not None:
            return  # another driver recorded it, or has continued
    latest = plans.read(folder)
    if latest is not None and latest.generation > plan.generation:
        withdraw(folder, latest.generation)
