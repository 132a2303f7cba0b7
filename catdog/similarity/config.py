"""The configurations of `duplicates`, `similar` and `leaks`."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro.conf

from catdog import storage
from catdog.errors import UserInputError


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """Where to look for pictures that occur more than once.

    Attributes:
        results: Folders that `catdog classify --embeddings` wrote; local or S3.
        output: HTML page to write; its table goes beside it, as .csv. (default: `_duplicates.html`
            in the first folder)
        stores: Access to the stores of images, results and model.
    """

    results: tyro.conf.Positional[tuple[str, ...]]
    output: str | None = None
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)

    def __post_init__(self) -> None:
        if not self.results:
            raise UserInputError("RESULTS: name at least one folder of results")
        for place, name in enumerate(self.results):
            if name in self.results[:place]:
                raise UserInputError(f"RESULTS {name}: is named twice")


@dataclass(frozen=True, kw_only=True)
class SimilarConfig:
    """Which images to look for, and where.

    Attributes:
        results: A folder that `catdog classify --embeddings` wrote; local or S3.
        images: Image files, URIs of images, or members of archives as results name them.
        count: Pictures to show per image.
        model: The model that made the results, if it has moved since.
        output: HTML page to write; its table goes beside it, as .csv. (default: `_similar.html` in
            the folder)
        stores: Access to the stores of images, results and model.
    """

    results: tyro.conf.Positional[str]
    images: tyro.conf.Positional[tuple[str, ...]]
    count: int = 12
    model: str | None = None
    output: str | None = None
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)

    def __post_init__(self) -> None:
        if not self.images:
            raise UserInputError("IMAGES: name at least one image")
        if self.count < 1:
            raise UserInputError("--count must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LeaksConfig:
    """Which two sets of images to compare.

    Attributes:
        train_results: A folder that `catdog classify --embeddings` wrote for the training images.
        test_results: A folder of results for the test images, from the same model, also with
            embeddings.
        output: HTML page to write; its table goes beside it, as .csv. (default: `_leaks.html` in
            the second folder)
        stores: Access to the stores of images, results and model.
    """

    train_results: tyro.conf.Positional[str]
    test_results: tyro.conf.Positional[str]
    output: str | None = None
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)

    def __post_init__(self) -> None:
        if self.train_results == self.test_results:
            raise UserInputError(f"TEST {self.test_results}: is TRAIN itself; name two results")
