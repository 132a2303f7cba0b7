"""The configuration and the result of a review."""

from __future__ import annotations

from dataclasses import dataclass

import tyro.conf

from catdog.errors import UserInputError


@dataclass(frozen=True, kw_only=True)
class ReviewConfig:
    """Which results to review, and where new labels go.

    Attributes:
        results: Folder that `catdog classify` or `catdog evaluate` wrote; local or S3.
        output: CSV file for new labels; existing ones are kept. A file beside it, with
            `-marked.txt` for `.csv`, lists the marked images. (default: `_labels.csv` in the folder
            of results)
        port: Port on 127.0.0.1; 0 takes a free one.
        against: Folder of other results of the same images, to show what changed since.
    """

    results: tyro.conf.Positional[str]
    output: str | None = None
    port: int = 0
    against: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UserInputError("--port must be 0 to 65535")
        if self.output is not None and not self.output.endswith(".csv"):
            raise UserInputError(f"--output {self.output}: its name must end with .csv")


@dataclass(frozen=True)
class ReviewSummary:
    """The results under review, and the page.

    Attributes:
        url: of the page. Whoever has it can see the pictures and change the labels.
        images: rows that the results hold.
        labels: URI of the table of new labels.
        marked: URI of the list of marked images.
        seconds: that it took to read the results.
    """

    url: str
    images: int
    labels: str
    marked: str
    seconds: float
