"""The simulation of the ledger: no violation in some stories, and the known faults are found."""

from __future__ import annotations

import pytest

from benchmarks import simulation


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_promise_is_broken(first):
    """Kills, rivals, failing operations and changed images: each image once, with the right answer."""
    assert simulation.first_violation(range(first, first + 20)) is None


@pytest.mark.parametrize("name", list(simulation.MUTATIONS))
def test_a_known_fault_is_found(name):
    """What the ledger does against each fault matters: without it, a story goes wrong."""
    with simulation.mutated(name):
        assert simulation.first_violation(range(40)) is not None


def test_a_seed_tells_the_same_story():
    """A violation can be told again by its seed."""
    assert simulation.tell(7) == simulation.tell(7)
