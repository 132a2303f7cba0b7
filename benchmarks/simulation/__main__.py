"""The command line: `python -m benchmarks.simulation`."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import simulation
from benchmarks.simulation import many

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
        return 1 if mutations(MUTATION_SEEDS) else 0
    started = time.monotonic()
    told = many.tell_all(range(options.first, options.first + options.seeds))
    if told.seed is not None:
        sys.stdout.write(
            f"seed {told.seed}: {told.violation}\n"
            f"again: python -m benchmarks.simulation --first {told.seed} --seeds 1\n"
        )
        return 1
    seconds = time.monotonic() - started
    sys.stdout.write(
        f"{options.seeds:,} seeds from {options.first:,}: no violation in "
        f"{told.operations:,} operations, {seconds:.0f} s\n"
    )
    return 0


def mutations(seeds: int) -> int:
    """Put each fault back and look for it. The number that was not found."""
    escaped = 0
    sys.stdout.write("seed   fault\n")
    for name, told in many.tell_faults(range(seeds)):
        if told.seed is None:
            escaped += 1
            sys.stdout.write(f"none   {name}: ESCAPED in {seeds:,} seeds\n")
        else:
            sys.stdout.write(f"{told.seed:<6} {name} ({told.violation})\n")
        sys.stdout.flush()
    return escaped


if __name__ == "__main__":
    sys.exit(main())
