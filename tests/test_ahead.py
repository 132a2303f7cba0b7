"""Work that runs ahead: in order, bounded, and gone when its consumer is."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from catdog.ahead import NOTHING_YET, read_ahead


def threads():
    return {thread.name for thread in threading.enumerate()} - {"MainThread"}


def test_everything_comes_in_order():
    """Each item once, None among them, and no thread is left."""
    before = threads()
    with read_ahead(iter([1, None, "x"]), 2) as items:
        assert list(items) == [1, None, "x"]
    assert threads() == before


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_consumer_that_stops_ends_the_thread(taken):
    """Half-way through, before the first item, by an exception: the source is closed and the thread gone."""
    before, closed = threads(), []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    def consume():
        with read_ahead(source(), 2, name="here") as items:
            assert list(itertools.islice(items, taken)) == list(range(taken))
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert closed == ["here"]
    assert threads() == before


def test_no_more_waits_than_may():
    """Of an endless source so many items are made ahead, and one more for each that is taken."""
    made = []
    with read_ahead((made.append(i) for i in itertools.count()), 3) as items:
        for taken in range(5):
            deadline = time.monotonic() + 30
            while len(made) < taken + 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
            assert len(made) == taken + 3
            next(items)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_comes_in_its_place(error):
    """What the source raises is raised behind the items before it, the same object."""

    def source():
        yield 1
        raise error

    before = threads()
    with read_ahead(source(), 2) as items:
        assert next(items) == 1
        with pytest.raises(type(error)) as caught:
            next(items)
    assert caught.value is error
    assert threads() == before


def test_a_slow_item_leaves_time_to_look_around():
    """While one is made, the consumer hears that there is none yet, and then has it."""
    go_on = threading.Event()

    def source():
        go_on.wait()
        yield 1

    with read_ahead(source(), 1, every_s=0.01) as items:
        assert next(items) is NOTHING_YET
        assert next(items) is NOTHING_YET
        go_on.set()
        assert [item for item in items if item is not NOTHING_YET] == [1]


def test_a_call_that_nothing_interrupts_is_left_to_its_end():
    """With a bound on patience the block ends before the call; the thread ends with the call."""
    go_on, before = threading.Event(), threads()
    with read_ahead((go_on.wait() for _ in range(3)), 1, name="stuck", patience_s=0.0):
        pass
    (stuck,) = [thread for thread in threading.enumerate() if thread.name == "stuck"]
    go_on.set()
    stuck.join()
    assert threads() == before
