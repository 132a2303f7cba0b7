"""`catdog train` as the entry point of a Ray job: same flags, same code.

Example: ray job submit --working-dir . -- python jobs/train.py ...
"""

import sys

from catdog.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
