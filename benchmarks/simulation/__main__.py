"""The command line: `python -m benchmarks.simulation`."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import simulation
from benchmarks.simulation import faults

MUTATION_SEEDS = 2_000


def main() -> int:
    """Tell stories, and say what came of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description=(simulation.__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutations", action="store_true")
    options = parser.parse_args()
    if options.mutations:
        return 1 if faults.mutations(MUTATION_SEEDS) else 0
    started, operations = time.monotonic(), 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            operations += simulation.tell(seed)
        except Exception as error:
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {error}\n")
            return 1
    seconds = time.monotonic() - started
    sys.stdout.write(
        f"{options.seeds:,} seeds from {options.first:,}: no violation in {operations:,} operations, "
        f"{seconds:.0f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
