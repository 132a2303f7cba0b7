"""The ledger: entries come in; shards, part files and counts go out.

`plans` reads the planned work, `drafts` adds to it, `part_files` holds the finished work: a shard of
the plan becomes one Parquet file. `ledger` records the job that owns the results, `changes` finds
the new images of a later listing. docs/protocol.md describes every file and step. Neither Ray nor TensorFlow is loaded here.
"""

from catdog.results import changes, damage, drafts, ledger, part_files, plans
from catdog.results.drafts import Draft
from catdog.results.folder import Folder
from catdog.results.part_files import PartCounts, Survey, Work
from catdog.results.plans import Plan

__all__ = [
    "Draft",
    "Folder",
    "PartCounts",
    "Plan",
    "Survey",
    "Work",
    "changes",
    "damage",
    "drafts",
    "ledger",
    "part_files",
    "plans",
]
