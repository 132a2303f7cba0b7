"""What a caller of a job may want to see while it runs."""

from __future__ import annotations


class Observer:
    """Sees nothing; override what you want to see. The jobs call it on the driver."""

    def phase(self, text: str) -> None:
        """A new phase begins, described in a few words."""

    def planned(self, images: int) -> None:
        """So many images were found until now."""

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        """So many of all images are done, the rejected among them."""

    def steps(
        self, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, workers: int
    ) -> None:
        """So many steps of this epoch are done, by so many workers at this rate together."""

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """An epoch ended; `row` has the columns of `metrics.csv`."""
