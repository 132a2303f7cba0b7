"""The ledger: entries come in; shards, part files and counts go out.

`plans` has what is to be done, `drafts` writes more of it, `part_files` has what is done: a shard of the plan becomes one
Parquet file. `ledger` keeps whose results they are, `changes` finds what a later listing has
besides. docs/protocol.md tells every file and step. Neither Ray nor TensorFlow is loaded here.
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
