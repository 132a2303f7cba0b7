"""Which part of the data an image belongs to, by a fixed rule on its name.

The rule needs no list and no random numbers: the same image is in the same part in every run, on
every machine, whatever images are added or removed beside it, and in `evaluate` as in `train`.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["train", "validation", "test"]

PART_FOLDERS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "train_set": "train",
    "training_set": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "val_set": "validation",
    "validation_set": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "test_set": "test",
}
"""Names of folders, in small letters, that say of which part their images are."""


def part_of(name: str, *, validation: float, test: float) -> Part:
    """The part of the image called `name`.

    Args:
        name: the path relative to the input's root, such as `cat/cat.1.jpg`.
        validation: fraction of the images for choosing the best epoch.
        test: fraction that no choice is made on.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    # Test lies at one end and train at the other, so that a larger validation part takes from
    # train only: an image once kept for the test never slips into training that way.
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"
