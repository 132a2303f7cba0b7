"""The ledger: entries come in; shards, part files and counts go out.

`plans` writes what is to be done, `part_files` what is done: a shard of the plan becomes one
Parquet file. Neither Ray nor TensorFlow is loaded here.
"""

from catdog.results import part_files, plans
from catdog.results.plans import Plan

__all__ = ["Plan", "part_files", "plans"]
