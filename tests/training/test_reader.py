"""Reading ahead: what comes, what fails, and what is left when nobody asks for more."""

from __future__ import annotations

import itertools
import threading

import pytest

from catdog.training import reader


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "read-ahead"}


def test_everything_comes_in_order():
    """To the end, and the thread ends with it."""
    assert list(reader._read_ahead(iter(range(100)))) == list(range(100))
    assert not threads()


def test_no_thread_outlives_its_consumer():
    """A consumer that stops half-way, of items without end, leaves nothing behind."""
    ahead = reader._read_ahead(itertools.count())
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    assert threads()
    ahead.close()
    assert not threads()


def test_a_failure_is_the_consumers():
    """What reading raises arrives where the item would have, after those before it."""

    def items():
        yield 1
        raise OSError("gone")

    ahead = reader._read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)
    assert not threads()
