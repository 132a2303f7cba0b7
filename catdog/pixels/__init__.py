"""Bytes to pixels: an entry's bytes come in, RGB uint8 of the network's size goes out.

`decode` decodes in this process. `Decoder` decodes in a child process with limits, so that no image
can do harm; `ray_stage` offers that as a Ray Data stage. Neither Ray nor TensorFlow is loaded here.
Each name is imported when it is first used, because the decoding child starts often.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catdog.pixels.child import memory_bound
    from catdog.pixels.decoder import AbandonedError, Decoder
    from catdog.pixels.decoding import decode
    from catdog.pixels.preprocessing import DecodeLimits, Preprocessing, check_sides
    from catdog.pixels.ray_stage import COST_COLUMNS, DecodeEntries, as_binary, as_pixels
    from catdog.pixels.shared_memory import OUTCOME_SCHEMA, DecodedBatch

__all__ = [
    "COST_COLUMNS",
    "OUTCOME_SCHEMA",
    "AbandonedError",
    "DecodeEntries",
    "DecodeLimits",
    "DecodedBatch",
    "Decoder",
    "Preprocessing",
    "as_binary",
    "as_pixels",
    "check_sides",
    "decode",
    "memory_bound",
]

_HOMES = {
    "child": ("memory_bound",),
    "decoder": ("AbandonedError", "Decoder"),
    "decoding": ("decode",),
    "preprocessing": ("DecodeLimits", "Preprocessing", "check_sides"),
    "ray_stage": ("COST_COLUMNS", "DecodeEntries", "as_binary", "as_pixels"),
    "shared_memory": ("OUTCOME_SCHEMA", "DecodedBatch"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'catdog.pixels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"catdog.pixels.{_HOME[name]}"), name)
