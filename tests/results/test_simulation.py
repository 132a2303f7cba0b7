"""The simulation of the ledger: no violation in some stories, and the known faults are found."""

from __future__ import annotations

import sys

import pytest

from benchmarks import simulation
from benchmarks.simulation import __main__ as command
from benchmarks.simulation import faults, many

# Of each fault a seed that finds it; `python -m benchmarks.simulation --mutations` tells them.
FOUND_BY = dict(zip(faults.MUTATIONS, (7, 13, 0, 0, 0, 61, 3, 19, 1, 0, 1), strict=True))
SIXTH = "6 a part is replaced whatever is there"


@pytest.mark.parametrize("seed", range(100, 106))
def test_no_promise_is_broken(seed):
    """Kills, rivals, failing operations and changed images: each image once, with the right answer."""
    assert simulation.tell_each(range(seed, seed + 1)).seed is None


@pytest.mark.parametrize("name", list(faults.MUTATIONS))
def test_a_known_fault_is_found(name):
    """What the ledger does against each fault matters: without it, a story goes wrong."""
    seed = FOUND_BY[name]
    with faults.mutated(name):
        assert simulation.tell_each(range(seed, seed + 1)).seed == seed


def test_a_seed_tells_the_same_story():
    """A violation can be told again by its seed."""
    assert simulation.tell(7) == simulation.tell(7)


def test_a_violation_ends_the_command(monkeypatch, capsys):
    """It is exit code 1, with the seed and the command that tell it again."""
    monkeypatch.setattr(sys, "argv", ["simulation", "--first", "60", "--seeds", "2"])
    monkeypatch.setattr(
        many, "_each", lambda tasks: (many._tell(SIXTH, seeds) for _, seeds in tasks)
    )
    assert command.main() == 1
    assert "--first 61 --seeds 1" in capsys.readouterr().out


def test_a_fault_that_escapes_is_counted(monkeypatch, capsys):
    """What the simulation does not find is exit code 1, and named."""
    monkeypatch.setattr(faults, "MUTATIONS", {"none at all": []})
    monkeypatch.setattr(many, "_each", lambda tasks: (many._tell(*task) for task in tasks))
    assert command.mutations(1) == 1
    assert "none at all: ESCAPED in 1 seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_stories_are_told_by_several_processes(monkeypatch):
    """Those of all blocks, each once."""
    monkeypatch.setattr(many, "_BLOCK_SEEDS", 2)
    told = many.tell_all(range(5))
    assert told == simulation.tell_each(range(5))
