"""Fuzzing: damaged files of every kind that is read, through the doors that a job uses.

    python -m benchmarks.fuzz [KIND...] [--seconds 60] [--seed 0] [--keep FOLDER] [--case NUMBER]

Whatever the bytes are, a job's code must give a row or an error for each image, or end with one of the
documented errors. It must do so in bounded time and memory, leave a sound neighbour unharmed and leave
nothing behind. Anything else is a defect. A second decoder reads decoded pictures, too. The command
prints a JSON object, and exits with 1 if there was a defect. Kind, seed and number determine a case;
`--keep` writes the cases with defects, `--case` runs a single one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.fuzz import running


def main() -> None:
    """Fuzz and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(running.KINDS))
    parser.add_argument("--seconds", type=float, default=60, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--case", type=int, default=None)
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(running.KINDS):
        parser.error(f"no such kind: {', '.join(unknown)}")
    record, defects = {}, 0
    for kind in arguments.kinds or running.KINDS:
        if arguments.case is None:
            found = running.fuzz(kind, arguments.seed, arguments.seconds, arguments.keep)
        else:
            found = running.Found()
            numbers = range(arguments.case, arguments.case + 1)
            for told in running.run(kind, arguments.seed, numbers):
                running.add(found, *told)
        defects += len(found.defects)
        record[kind] = {
            "cases": found.outcomes.total() + len(found.defects),
            "outcomes": dict(sorted(found.outcomes.items())),
            "defects": found.defects,
            "otherwise to a second decoder": found.judged,
        }
    print(json.dumps({"seed": arguments.seed, **record}, indent=2))
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    main()
