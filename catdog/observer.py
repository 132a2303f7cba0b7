"""Observers: how a caller follows a running job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


class Observer:
    """Does nothing; override the methods that you need. Jobs call them on the driver."""

    def phase(self, text: str) -> None:
        """A new phase begins, described in a few words."""

    def planned(self, images: int) -> None:
        """The listing has found this many images so far."""

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        """This many of all images are done, including the rejected ones."""

    def shard(self, shard: int, images: int, rejected: int, seconds: float) -> None:
        """A shard is done: its number, its images, the rejected among them, a worker's seconds."""

    def retried(self, shards: int, cause: str) -> None:
        """This many shards were lost so far and run again; `cause` is that of the latest."""

    def rows_read(self, done: int, total: int) -> None:
        """This many rows of finished results have been read, for their page."""

    def steps(
        self, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, workers: int
    ) -> None:
        """This many steps of the epoch are done, by all workers together at this rate."""

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """An epoch ended; `row` has the columns of `metrics.csv`."""


class _Several(Observer):
    """Passes events on. If the guest raises, the log says so once, and the guest gets no more events."""

    def __init__(self, hosts: Sequence[Observer], guests: Sequence[Observer]) -> None:
        self._hosts, self._guests = hosts, list(guests)

    def _tell(self, event: str, *arguments: Any, **named: Any) -> None:
        for host in self._hosts:
            getattr(host, event)(*arguments, **named)
        for guest in list(self._guests):
            try:
                getattr(guest, event)(*arguments, **named)
            except Exception:
                logger.exception("the observer failed; the job continues without it")
                self._guests.remove(guest)

    def phase(self, text: str) -> None:
        self._tell("phase", text)

    def planned(self, images: int) -> None:
        self._tell("planned", images)

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        self._tell("progress", done, total, rejected, images_per_s)

    def shard(self, shard: int, images: int, rejected: int, seconds: float) -> None:
        self._tell("shard", shard, images, rejected, seconds)

    def retried(self, shards: int, cause: str) -> None:
        self._tell("retried", shards, cause)

    def rows_read(self, done: int, total: int) -> None:
        self._tell("rows_read", done, total)

    def steps(
        self, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, workers: int
    ) -> None:
        self._tell("steps", epoch, epochs, step, steps, images_per_s, workers)

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        self._tell("epoch", row, best=best)


def forgiving(observer: Observer | None) -> Observer:
    """An observer whose exceptions stop no job."""
    return Observer() if observer is None else _Several([], [observer])


def both(host: Observer, guest: Observer) -> Observer:
    """Two observers in one; exceptions of the guest stop no job."""
    return _Several([host], [guest])
