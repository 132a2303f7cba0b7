"""A job's log for machines: one event per line, in a file that the user names.

docs/log.schema.json describes the lines. They name no image, hold no pixels and no credentials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any, TextIO

from catdog import storage
from catdog.cli import ending
from catdog.errors import UserInputError, naming_full_disk, without_secrets
from catdog.observer import Observer
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.cli.arguments import Logged

_EVERY_S = 10.0  # for events that come many times a second


class EventLog(Observer):
    """Writes a job's events, one per line.

    Args:
        file: open for text; None for no log.
        verb: the command.
        as_json: whether a line is a JSON object; else it is `time job event name=value ...`.
    """

    def __init__(self, file: TextIO | None, verb: str, *, as_json: bool) -> None:
        self._file, self._as_json = file, as_json
        self._job = f"{verb}-{secrets.token_hex(4)}"
        self._began = time.monotonic()
        self._last = -math.inf

    def event(self, event: str, **fields: Any) -> None:
        """Write one event; its fields must be plain data."""
        if self._file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "job": self._job, "event": event}
        line |= {name: _plain(value) for name, value in fields.items()}
        if self._as_json:
            text = json.dumps(line)
        else:
            told = [f"{name}={_written(value)}" for name, value in list(line.items())[3:]]
            text = " ".join([*list(line.values())[:3], *told])
        self._file.write(text + "\n")
        self._file.flush()

    def ended(self, code: int, error: BaseException | None = None) -> None:
        """Write the last event of a job."""
        seconds = time.monotonic() - self._began
        fields: dict[str, Any] = {"exit_code": code, "seconds": seconds}
        if error is not None and str(error):
            fields["message"] = " ".join(str(error).split())
        if error is not None and code == ending.FAULT:
            fields["traceback"] = "".join(format_exception(error))
        self.event("ended", **fields)

    def phase(self, text: str) -> None:
        """A new phase begins."""
        self.event("phase", text=text)

    def planned(self, images: int) -> None:
        """So many images were found until now."""
        if self._due():
            self.event("planned", images=images)

    def progress(self, done: int, total: int, rejected: int, images_per_s: float) -> None:
        """So many of all images are done."""
        if self._due() or done == total:
            self.event(
                "progress", done=done, total=total, rejected=rejected, images_per_s=images_per_s
            )

    def shard(self, shard: int, images: int, rejected: int, seconds: float) -> None:
        """A shard is done."""
        self.event("shard", shard=shard, images=images, rejected=rejected, seconds=seconds)

    def retried(self, shards: int, cause: str) -> None:
        """So many shards were lost."""
        self.event("retried", shards=shards, cause=cause)

    def rows_read(self, done: int, total: int) -> None:
        """So many rows of finished results are read."""
        if self._due():
            self.event("rows_read", done=done, total=total)

    def steps(
        self, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, workers: int
    ) -> None:
        """Steps done of an epoch."""
        if self._due():
            self.event(
                "steps",
                epoch=epoch,
                epochs=epochs,
                step=step,
                steps=steps,
                images_per_s=images_per_s,
                workers=workers,
            )

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """An epoch ended."""
        self.event("epoch", **row, best=best)

    def _due(self) -> bool:
        if time.monotonic() - self._last < _EVERY_S:
            return False
        self._last = time.monotonic()
        return True


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return without_secrets(value) if isinstance(value, str) else value


def _written(value: Any) -> str:
    plain = isinstance(value, str) and value and all(c.isalnum() or c in "-_./:" for c in value)
    return value if plain else json.dumps(value)


@contextlib.contextmanager
def opened(command: Logged, verb: str) -> Iterator[EventLog]:
    """The log of a command: written while the job runs, including its end and the reason.

    Raises:
        UserInputError: the file cannot be written.
    """
    if command.log_file is None:
        yield EventLog(None, verb, as_json=False)
        return
    with _file(command.log_file) as file:
        log = EventLog(file, verb, as_json=command.log_format == "json")
        asked = {name: getattr(command, name, None) for name in ("output", "model", "address")}
        log.event("started", command=verb, version=__version__, **asked)
        try:
            yield log
        except BaseException as error:
            code = ending.exit_code(error)
            with contextlib.suppress(OSError):  # the error itself is on the screen
                log.ended(code, error)
                if code == ending.FAULT:
                    error.__dict__["kept_in"] = command.log_file
            raise
        with contextlib.suppress(OSError):
            log.ended(0)


@contextlib.contextmanager
def _file(named: str) -> Iterator[TextIO]:
    flag = f"--log-file {named}"
    try:
        uri = storage.to_uri(named)
        if not storage.is_local(uri):
            raise UserInputError(f"{flag}: name a local file")
        path = Path(storage.local_path(uri))
        with naming_full_disk(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a", encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise UserInputError(f"{flag}: {said}") from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


def summary(result: Any) -> dict[str, Any]:
    """The numbers of a job's result, by name."""
    fields = dataclasses.asdict(result)
    return {name: value for name, value in fields.items() if isinstance(value, int | float)}
