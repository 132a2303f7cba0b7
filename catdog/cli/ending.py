"""SIGTERM, by which Kubernetes, Slurm and `kill` ask a command to end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from catdog.errors import CatdogError, Terminated, UserInputError
from catdog.runtime import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CODE = 128 + signal.SIGTERM
FAULT = 70
# Kubernetes kills what is still there after 30 s.
_ENDS_WITHIN_S = 15.0


@contextlib.contextmanager
def on_sigterm(message: str) -> Iterator[None]:
    """Make SIGTERM close everything that the process opened, print one line and exit with 143.

    A half-done shard or epoch is dropped: nothing of it was written under its name.

    Args:
        message: the line, on standard error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    terminal = os.dup(2)

    def end() -> None:
        embedded.abandon()
        os.write(terminal, f"{message}\n".encode())
        embedded.end_abandoned()
        os._exit(EXIT_CODE)  # at once: what is left of Ray in this process would set another code

    timer = threading.Timer(_ENDS_WITHIN_S, end)
    timer.daemon = True

    def begin_to_end(_signal: int, _frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the ending
        signal.alarm(0)  # by Ray's C++ part, which would abort in 3 s
        timer.start()
        raise Terminated

    before = signal.signal(signal.SIGTERM, begin_to_end)
    try:
        yield
    except Terminated:
        end()
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(terminal)


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends by an exception."""
    if isinstance(error, UserInputError):
        return 2
    if isinstance(error, Terminated):
        return EXIT_CODE
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, CatdogError | OSError) or is_missing_package(error):
        return 1
    return FAULT


def is_missing_package(error: BaseException) -> bool:
    """Whether this Python lacks a package of somebody else's."""
    return isinstance(error, ModuleNotFoundError) and not f"{error.name}".startswith("catdog")


def how_to_go_on(verb: str) -> str:
    """The line that a command prints when it is asked to end."""
    again = {
        "train": "run the same command again: it continues from the last checkpoint",
        "submit": "the job itself continues, if it was submitted",
        **dict.fromkeys(("predict", "report", "doctor"), "run the same command again"),
    }.get(verb, "run the same command again: it continues from what is written")
    return f"stopped by SIGTERM; {again}"
