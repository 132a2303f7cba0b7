"""What people see while a job runs, on standard error; and the tables at the end.

At a terminal there is one live line; elsewhere the same as a plain line every few seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from catdog.errors import UserInputError
from catdog.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_PLAIN_LINE_EVERY_S = 10.0


class Progress(Observer):
    """A status that changes while a job runs. A context manager.

    Inside it, what Ray, TensorFlow and their C++ parts write to standard error goes to a log file;
    only this class writes to the terminal.

    Args:
        log_name: the beginning of the log file's name, in the folder for temporary files.
    """

    def __init__(self, log_name: str) -> None:
        self.log_file = Path(tempfile.gettempdir()) / f"{log_name}-{os.getpid()}.log"
        self._started = time.monotonic()
        self._last_plain = 0.0

    def __enter__(self) -> Progress:
        sys.stderr.flush()
        self._terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self._console = Console(file=self._terminal, highlight=False, soft_wrap=True)
        log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.close(log)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        if error is not None and not isinstance(error, (UserInputError, SystemExit)):
            self.line(f"the libraries' log is in {self.log_file}")
        sys.stderr.flush()
        os.dup2(self._terminal.fileno(), 2)
        self._terminal.close()

    def line(self, text: str) -> None:
        """A line that stays."""
        stamp = f"{duration(time.monotonic() - self._started):>7}  "
        # Text and not markup: file names must not be able to change the terminal's state.
        self._console.print(Text(stamp, "dim") + Text(safe(text)))

    def _status(self, text: str) -> None:
        """The line that changes."""
        if self._console.is_terminal:
            stamp = f"{duration(time.monotonic() - self._started):>7}  "
            self._live.update(Text(stamp, "dim") + Text(safe(text), "cyan"))
        elif time.monotonic() - self._last_plain >= _PLAIN_LINE_EVERY_S:
            self._last_plain = time.monotonic()
            self.line(text)

    def phase(self, text: str) -> None:
        """A new phase begins."""
        self.line(text)

    def planned(self, images: int) -> None:
        """So many images were found until now."""
        self._status(f"found {images:,} images")

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        """So many of all images are done."""
        left = (total - done) / images_per_s if images_per_s else 0.0
        self._status(
            f"{done:,} of {total:,} images ({done / max(total, 1):.0%}), {rejected:,} rejected, "
            f"{images_per_s:,.0f} images/s, {duration(left)} left"
        )

    def steps(self, epoch: int, epochs: int, step: int, steps: int, images_per_s: float) -> None:
        """Steps done of an epoch."""
        self._status(
            f"epoch {epoch} of {epochs}: step {step} of {steps}, {images_per_s:,.0f} images/s"
        )

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """An epoch ended."""
        self.line(
            f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
            f"{row['images_per_s']:,.0f} images/s  {duration(row['seconds'])}{'  best' if best else ''}"
        )


def duration(seconds: float) -> str:
    """Seconds as people write them: `9.5s`, `3m 20s`, `2h 05m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def safe(text: str) -> str:
    """Text without control characters: a file name must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values on standard output."""
    shown = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in rows:
        shown.add_row(Text(name, "dim"), Text(safe(str(value))))
    Console(highlight=False).print(shown)


def command_line(command: str) -> None:
    """Print a command to copy: on one line however narrow the terminal is."""
    Console(highlight=False, soft_wrap=True).print(Text(f"  {safe(command)}", "cyan"))


def error_line(verb: str, message: str) -> None:
    """Print one line on standard error."""
    text = " ".join(message.split())
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        Text(f"catdog {verb}: ".replace("  ", " "), "bold red") + Text(safe(text))
    )
