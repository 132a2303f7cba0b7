"""A results folder made by the ledger's own functions, without a job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from catdog.results import Folder, drafts, ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from catdog.results import Plan


def write_plan(output: str, batches: Iterable[pa.RecordBatch], **more: Any) -> Plan:
    """A first generation of these entries."""
    folder = Folder(output)
    draft = drafts.draft(folder, batches, **more)
    assert draft.commit(ledger.identity({}))
    plan = plans.read(folder)
    assert plan is not None
    return plan


def write_part(plan: Plan, shard: int, rows: pa.Table, labels: Sequence[str], run="a") -> bool:
    """The file of a shard; whether it is this run's."""
    work = part_files.begin(plan, shard, present=True)
    if work is None:
        return False
    return part_files.finish(work, rows, labels=labels, run=run)[1]


def write_json(plan: Plan, name: str, content: Mapping[str, Any]) -> None:
    """`_run.json` or `_summary.json`."""
    with plan.folder.write(name) as file:
        file.write(json.dumps(content).encode())
