"""The simulation of the ledger: no violation in some stories, and the known faults are found."""

from __future__ import annotations

import pytest

from benchmarks import simulation
from benchmarks.simulation import faults

# Of each fault a seed that finds it; `python -m benchmarks.simulation --mutations` tells them.
FOUND_BY = dict(zip(faults.MUTATIONS, (7, 13, 0, 0, 0, 61, 3, 19, 1, 0, 1), strict=True))


@pytest.mark.parametrize("seed", range(100, 112))
def test_no_promise_is_broken(seed):
    """Kills, rivals, failing operations and changed images: each image once, with the right answer."""
    assert simulation.first_violation(range(seed, seed + 1)) is None


@pytest.mark.parametrize("name", list(faults.MUTATIONS))
def test_a_known_fault_is_found(name):
    """What the ledger does against each fault matters: without it, a story goes wrong."""
    seed = FOUND_BY[name]
    with faults.mutated(name):
        assert simulation.first_violation(range(seed, seed + 1)) is not None


def test_a_seed_tells_the_same_story():
    """A violation can be told again by its seed."""
    assert simulation.tell(7) == simulation.tell(7)


def test_a_fault_that_escapes_is_counted(monkeypatch, capsys):
    """What the simulation does not find is exit code 1, and named."""
    monkeypatch.setattr(faults, "MUTATIONS", {"none at all": []})
    assert faults.mutations(1) == 1
    assert "ESCAPED in 1 seeds: none at all" in capsys.readouterr().out
