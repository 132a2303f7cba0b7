"""`catdog evaluate` as the entry point of a Ray job: same flags, same code.

Example: ray job submit --working-dir . -- python jobs/evaluate.py ...
"""

import sys

from catdog.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
