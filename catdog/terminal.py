"""What people see of a running job on standard error, and the tables at its end.

A terminal shows one live line: the current phase, how much is done, the time left. Elsewhere a plain
line comes every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from catdog import scratch
from catdog.errors import UserInputError, counted, printable, without_secrets
from catdog.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

_PLAIN_LINE_EVERY_S = 10.0
_LEAST_RATED_S = 1.0
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


class Progress(Observer):
    """Shows a job's progress, one line every few seconds, in programs and notebooks.

    ```python
    import catdog

    catdog.classify("photos/", output="results-progress", observer=catdog.Progress())
    ```

    Args:
        terminal: the stream for the lines; by default standard error.
    """

    def __init__(self, terminal: TextIO | None = None) -> None:
        self._live = False  # whether the last line changes by itself: see `alive`
        self._started = time.monotonic()
        self._last_plain = 0.0
        self._phase: Text | None = None  # stays as a line when the next one begins
        self._doing = ""
        self._share: float | None = None
        self._first_steps: tuple[float, int] | None = None  # when the first steps were seen
        self._epochs_shown = False
        self._retried, self._retried_shards = "", 0
        self._spinner = Spinner("dots", style="cyan")
        self._console = Console(file=terminal or sys.stderr, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """At a terminal the last line changes by itself."""
        live = Live(
            console=self._console,
            refresh_per_second=8,
            transient=True,
            get_renderable=self._live_line,
            redirect_stdout=False,  # libraries print to the log, not above the line
            redirect_stderr=False,
        )
        self._live = self._console.is_terminal
        with live if self._live else contextlib.nullcontext():
            try:
                yield
            finally:
                self._end_phase()
                self._live = False

    def _stamp(self) -> str:
        return f"{duration(time.monotonic() - self._started):>7}  "

    def _live_line(self) -> RenderableType:
        if not self._doing:
            return Text("")
        stamp = self._stamp()
        text = Text(printable(self._doing), "cyan", no_wrap=True, overflow="ellipsis")
        room = min(20, self._console.width - len(stamp) - len(text) - 2)
        done: RenderableType = self._spinner
        if self._share is not None and room >= 6:
            done = ProgressBar(1, self._share, width=room)
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(stamp.rstrip(), "dim"), done, text)
        return line

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._console.print(self._phase)
        self._phase, self._doing, self._share = None, "", None

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if self._phase is not None:
            self._console.print(self._phase)
            self._phase = None
        # Text and not markup: file names must not be able to change the terminal's state.
        self._console.print(Text.assemble((self._stamp(), "dim"), printable(text)))

    def _status(self, text: str, share: float | None = None) -> None:
        """The line that changes, and how much is done where that is known."""
        if self._live:
            self._doing, self._share = text, share
        elif time.monotonic() - self._last_plain >= _PLAIN_LINE_EVERY_S:
            self._last_plain = time.monotonic()
            self.line(text)

    def phase(self, text: str) -> None:
        """A new phase begins."""
        self._end_phase()
        if self._live:
            self._phase = Text.assemble((self._stamp(), "dim"), printable(text))
            self._doing = text
        else:
            self.line(text)

    def planned(self, images: int) -> None:
        """The listing has found this many images so far."""
        self._status(f"found {counted(images, 'image')}")

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        """This many of all images are done."""
        left = f", {duration((total - done) / images_per_s)} left" if images_per_s else ""
        self._status(
            f"{done:,} of {counted(total, 'image')} ({done / max(total, 1):.0%}), {rejected:,} rejected, "
            f"{images_per_s:,.0f} images/s{left}{self._retried}",
            done / max(total, 1),
        )

    def retried(self, shards: int, cause: str) -> None:
        """This many shards were lost: a line for the new ones, and the progress line from here on."""
        self.line(f"{counted(shards - self._retried_shards, 'shard')} tried again: {cause}")
        self._retried_shards = shards
        self._retried = f", {counted(shards, 'shard')} tried again ({cause})"

    def rows_read(self, done: int, total: int) -> None:
        """This many rows of finished results have been read."""
        self._status(f"read {done:,} of {counted(total, 'row')}", done / max(total, 1))

    def steps(
        self, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, workers: int
    ) -> None:
        """Steps done of an epoch."""
        now, done, total = time.monotonic(), (epoch - 1) * steps + step, epochs * steps
        if self._first_steps is None:
            self._first_steps = now, done
        began, before = self._first_steps
        # By the clock and not by `images_per_s`: validation and checkpoints take time, too.
        left = ""
        if before < done < total:
            left = f"{duration((total - done) * (now - began) / (done - before))} left, "
        each = f" ({images_per_s / workers:,.0f} a worker)" if workers > 1 else ""
        self._status(
            f"epoch {epoch} of {epochs}: step {step} of {steps}, {left}"
            f"{images_per_s:,.0f} images/s{each}",
            done / max(total, 1),
        )

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """An epoch ended: a row of a table."""
        if not self._epochs_shown:
            self.line("epoch    loss  accuracy  val_loss   val_acc  images/s     time")
        self._epochs_shown = True
        # Of so short an epoch most is not training.
        rate = f"{row['images_per_s']:,.0f}" if row["seconds"] >= _LEAST_RATED_S else ""
        took = duration(row["seconds"]) if row["seconds"] >= 0.05 else "<0.1s"
        self.line(
            f"{row['epoch']:>5}  {row['loss']:>6.4f}  {row['accuracy']:>8.2%}  {row['val_loss']:>8.4f}  "
            f"{row['val_accuracy']:>8.2%}  {rate:>8}  {took:>7}"
            f"{'  best' if best else ''}"
        )


@contextlib.contextmanager
def progress(log_name: str) -> Iterator[Progress]:
    """A live status while a job runs.

    Inside it, the output of Ray, TensorFlow and their C++ parts on standard error goes to a log file;
    only `Progress` writes to the terminal. The log stays if the job fails; the next job removes the
    log of a killed one.

    Args:
        log_name: the beginning of the log file's name, in the folder for temporary files.
    """
    with scratch.private_folder() as folder, _standard_error_in(folder / "log") as terminal:
        shown = Progress(terminal)
        try:
            with shown.alive():
                yield shown
        except (UserInputError, SystemExit):
            raise  # nobody will look for a log
        except BaseException as error:
            log = log_file(log_name)
            with contextlib.suppress(OSError):  # the disk may be full
                shutil.move(folder / "log", log)
            keep_traceback(error, log)  # people get one line
            shown.line(f"the libraries' log is in {log}")
            raise


@contextlib.contextmanager
def _standard_error_in(log: Path) -> Iterator[TextIO]:
    """Send standard error and printed text to a log; gives the former standard error."""
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") as terminal:
        descriptor = os.open(log, _APPEND, 0o600)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        try:
            # Ray reports dead workers on standard output, amid what a script reads.
            with contextlib.redirect_stdout(sys.stderr):
                yield terminal
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)


def log_file(name: str) -> Path:
    """The log for what nobody wants to see on the screen."""
    return Path(tempfile.gettempdir()) / f"{name}-{os.getpid()}.log"


def keep_traceback(error: BaseException, log: Path) -> Path:
    """Write an exception's traceback to the end of a log, once, without credentials.

    Gives the log's place back.
    """
    if getattr(error, "kept_in", None) != log:
        error.__dict__["kept_in"] = log
        lines = "".join(format_exception(error)).splitlines()
        with (
            contextlib.suppress(OSError),  # a full disk is usually what `error` itself is about
            os.fdopen(
                os.open(log, _APPEND, 0o600), "a", encoding="utf-8", errors="replace"
            ) as file,
        ):
            file.writelines(f"{printable(without_secrets(line))}\n" for line in lines)
    return log


def duration(seconds: float) -> str:
    """Seconds in the form that people write: `9.5s`, `3m 20s`, `2h 05m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values on standard output."""
    shown = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    shown.title_style = "bold"
    shown.add_column()
    shown.add_column(overflow="fold")  # a path must not be cut
    for name, value in rows:
        shown.add_row(Text(printable(name), "dim"), Text(printable(str(value))))
    # A file or a pipe gets one line each.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    console.print()
    console.print(shown)


def command_line(command: str) -> None:
    """Print a command to copy, on one line even in a narrow terminal."""
    Console(highlight=False, soft_wrap=True).print(Text(f"  {printable(command)}", "cyan"))


def called_as() -> str:
    """What a shell runs this program by: `catdog` where that is in its PATH, else as it was called."""
    place = Path(sys.argv[0])
    if place == Path(__file__).with_name("__main__.py"):
        found = shutil.which("python")
        there = found is not None and Path(found).absolute() == Path(sys.executable)
        return f"{'python' if there else shlex.quote(sys.executable)} -m catdog"
    if place.name != "catdog" or not place.is_file():
        return "catdog"  # a program that calls a command
    found = shutil.which("catdog")
    there = found is not None and place.samefile(found)
    return "catdog" if there else shlex.quote(sys.argv[0])


def error_line(verb: str, message: str) -> None:
    """Print one line on standard error, without credentials."""
    text = without_secrets(" ".join(message.split()))
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        Text.assemble((f"catdog {verb}".rstrip() + ": ", "bold red"), printable(text))
    )
