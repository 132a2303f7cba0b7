"""The file with the probability that each class needs.

    {"model": "<fingerprint>", "precision": 0.99, "thresholds": {"cat": 0.71, "dog": null}}

`evaluate` writes it, `classify --thresholds` reads it. A class with null is never certain enough.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from catdog import storage
from catdog.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catdog.model import folders

FILE = "thresholds.json"
_NEVER = 2.0  # above every probability
_MAX_BYTES = 64 * 2**20


def write(
    output: str, fingerprint: str, precision: float, by_class: Mapping[str, float | None]
) -> None:
    """Write the file into a folder.

    Args:
        output: URI of the folder.
        fingerprint: of the model.
        precision: that the thresholds are for.
        by_class: the least probability of each class, None where none is high enough.
    """
    content = {"model": fingerprint, "precision": precision, "thresholds": dict(by_class)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    storage.write_atomic(storage.join(output, FILE), text.encode("utf-8", "replace"))


def read(place: str, metadata: folders.ModelMetadata) -> tuple[float, ...]:
    """The least probability of each class, in the order of the model's labels.

    Raises:
        UserInputError: the file does not exist, has no thresholds, or belongs to another model.
    """
    flag = f"--thresholds {place}"
    with storage.blamed_on(flag):
        text = storage.read_bytes(storage.to_uri(place), _MAX_BYTES)
    try:
        content = json.loads(text)
        model, by_class = content["model"], content["thresholds"]
        found = {
            label: _NEVER if least is None else float(least) for label, least in by_class.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserInputError(f"{flag}: is not a file that `catdog evaluate` wrote") from None
    if model != metadata.fingerprint or set(found) != set(metadata.labels):
        raise UserInputError(f"{flag}: was measured with another model; evaluate this one")
    return tuple(found[label] for label in metadata.labels)
