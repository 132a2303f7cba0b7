"""`--watch`: what ends it, and what does not."""

from __future__ import annotations

import os
import signal

import pytest

from catdog.cli import watching
from catdog.errors import CatdogError, UserInputError


def test_a_failure_is_told_and_the_next_time_comes(capsys):
    """A store that is away, a folder that is empty later on: one line each, and again."""
    ends = iter([None, CatdogError("away"), UserInputError("no images in it"), None])
    did = []

    def run():
        end = next(ends, "enough")
        did.append(end)
        if end == "enough":
            os.kill(os.getpid(), signal.SIGTERM)
        elif end is not None:
            raise end
        return 0

    assert watching.repeat(run, 0.001, "classify") == 0
    assert len(did) == 5
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in errors] == ["away", "no images in it"]


def test_a_mistake_ends_it_at_once():
    """What is wrong with the command itself is no reason to wait."""

    def run():
        raise UserInputError("no such flag")

    with pytest.raises(UserInputError, match="no such flag"):
        watching.repeat(run, 0.001, "classify")
