"""The configuration of the page, and its summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tyro.conf

from catdog import storage
from catdog.errors import UserInputError

if TYPE_CHECKING:
    from catdog.reporting.comparison import Comparison

MAX_THUMBNAILS = 300


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which results to show, and where the page goes.

    Attributes:
        results: Folder that `catdog classify` or `catdog evaluate` wrote; local or S3.
        output: HTML file to write. (default: `_report.html` in a folder of results, `report.html`
            in an evaluation)
        thumbnails: Largest number of pictures per label.
        against: Folder of other results of the same images; the page shows what changed since.
        stores: Access to the stores of images, results and model.
    """

    results: tyro.conf.Positional[str]
    output: str | None = None
    thumbnails: int = 24
    against: str | None = None
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)

    def __post_init__(self) -> None:
        if not 0 <= self.thumbnails <= MAX_THUMBNAILS:
            raise UserInputError(f"--thumbnails must be 0 to {MAX_THUMBNAILS}")


@dataclass(frozen=True)
class ReportSummary:
    """A summary of the page.

    Attributes:
        output: URI of the page.
        images: number of rows in the results.
        classified: number of rows with a label.
        rejected: number of rows with an error.
        accuracy: accuracy over the classified images whose folder or label column names a class;
            None if there are none.
        thumbnails: number of pictures in the page.
        searchable: number of rows that can be searched in the page.
        bytes: size of the page.
        seconds: time that it took to make the page.
        comparison: the comparison with the results `against`, or None.
    """

    output: str
    images: int
    classified: int
    rejected: int
    accuracy: float | None
    thumbnails: int
    searchable: int
    bytes: int
    seconds: float
    comparison: Comparison | None = None
