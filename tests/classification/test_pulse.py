"""What the board makes of what workers tell; with real workers, see tests/cluster/test_strangers.py."""

from __future__ import annotations

import pytest

from catdog.classification import pulse


def beat(worker, shard, attempt, images=0):
    """Of a worker on one node."""
    return pulse.Beat(worker, "node", shard, attempt, images)


def test_images_of_unfinished_shards_are_added_up():
    """A worker between two shards has none; the latest beat of each counts."""
    board = pulse.Board(lambda: {"node"})
    board.beat(beat("a", 1, "x", 10), ["a"])
    board.beat(beat("a", 1, "x", 30), ["a"])
    board.beat(beat("b", 2, "y", 5), ["b"])
    board.beat(beat("c", None, ""), ["c"])
    assert board.state() == pulse.State(35, {}, [])


def test_one_process_that_begins_a_shard_twice_was_hung_up_on():
    """Ray lost the connection and not the process; a beat of the same attempt is no retry."""
    board = pulse.Board(lambda: {"node"})
    for attempt in ("x", "x", "y"):
        board.beat(beat("a", 1, attempt), ["a"])
    assert board.state().retried == {pulse.CONNECTION_BROKE: 1}


def test_a_silent_worker_is_given_up_once(monkeypatch):
    """Its handle is told in one answer, later beats of it are not heard, its shard is a silent one's."""
    board = pulse.Board(lambda: {"node"})
    board.beat(beat("a", 1, "x", 10), ["handle"])
    monkeypatch.setattr(pulse, "_SILENT_AFTER_S", -1.0)
    assert board.state().silent == ["handle"]
    monkeypatch.undo()
    board.beat(beat("a", 1, "x", 20), ["handle"])
    assert board.state() == pulse.State(0, {}, [])
    board.beat(beat("b", 1, "y"), ["other"])
    assert board.state() == pulse.State(0, {pulse.SILENT: 1}, [])


@pytest.mark.parametrize(("alive", "cause"), [("node", pulse.WORKER_ENDED), ("", pulse.NODE_LOST)])
def test_a_worker_ends_alone_or_with_its_node(alive, cause):
    """Its node tells which, also where the silence was noticed first."""
    board = pulse.Board(lambda: {alive})
    board.beat(beat("a", 1, "x", 10), ["a"])
    board.beat(beat("b", 1, "y"), ["b"])
    assert board.state().retried == {cause: 1}
