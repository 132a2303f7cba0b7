"""The state that a restarted worker needs, as plain arrays and JSON: nothing in it can run code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from catdog.training.network import Network

_ARRAYS_FILE = "state.npz"
_HISTORY_FILE = "history.json"


class Restored(NamedTuple):
    """The content of a checkpoint beside the variables of network and optimizer.

    Attributes:
        history: rows of the metrics, an epoch each.
        average: the average weights, None where there are none.
        best: the best epoch's weights.
    """

    history: list[dict[str, float]]
    average: list[Any] | None
    best: list[Any]


def save(folder: Path, network: Network, state: Restored) -> None:
    """Write all of it into a folder."""
    groups = {
        "weight": [np.asarray(variable) for variable in network.model.variables],
        "optimizer": [np.asarray(variable) for variable in network.optimizer.variables],
        "average": state.average or [],
        "best": state.best,
    }
    arrays = {
        f"{kind}_{number:04d}": array
        for kind, group in groups.items()
        for number, array in enumerate(group)
    }
    np.savez(folder / _ARRAYS_FILE, **arrays)
    (folder / _HISTORY_FILE).write_text(json.dumps(state.history))


def restore(folder: Path, network: Network) -> Restored:
    """Read what `save` wrote; the network and its optimizer are then as they were."""
    history = json.loads((folder / _HISTORY_FILE).read_text())
    with np.load(folder / _ARRAYS_FILE, allow_pickle=False) as arrays:
        groups = {
            kind: [arrays[name] for name in sorted(arrays.files) if name.startswith(kind)]
            for kind in ("weight", "optimizer", "average", "best")
        }
    for owner, kind in ((network.model, "weight"), (network.optimizer, "optimizer")):
        for variable, value in zip(owner.variables, groups[kind], strict=True):
            variable.assign(value)
    return Restored(history, groups["average"] or None, groups["best"])
