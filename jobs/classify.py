"""`catdog classify` as the entry point of a Ray job: same flags, same code.

Example: ray job submit --working-dir . -- python jobs/classify.py ...
"""

import sys

from catdog.cli import main

if __name__ == "__main__":
    sys.exit(main(["classify", *sys.argv[1:]]))
