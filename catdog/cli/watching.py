"""A command that runs again and again, until somebody ends it."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

from catdog import terminal
from catdog.errors import CatdogError, UserInputError

if TYPE_CHECKING:
    from collections.abc import Callable


def repeat(run: Callable[[], int], pause_s: float, verb: str) -> int:
    """Run, wait, run again, until Ctrl-C or SIGTERM.

    A failure is printed, and the next run may succeed: a store that was away, an empty folder. A
    mistake of the user in the first run is raised.

    Returns:
        0 if the command was ended, even in the middle of its work, since nothing is lost.
    """
    first = True
    signal.signal(signal.SIGTERM, _end)
    try:
        while True:
            try:
                run()
            except CatdogError as error:
                if first and isinstance(error, UserInputError):
                    raise
                terminal.error_line(verb, str(error))
            first = False
            sys.stdout.flush()  # whoever reads a pipe is not to wait for the end
            time.sleep(pause_s)
    except KeyboardInterrupt:
        return 0


def _end(*_: object) -> None:
    raise KeyboardInterrupt
