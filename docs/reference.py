"""The reference of the Python API, from its docstrings, as HTML.

    python docs/reference.py site

writes it; `make docs` does, too. Its examples are run by `tests/test_docs.py`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

import catdog


def write(folder: Path) -> None:
    """Write the pages of all that `catdog` offers; what its rooms have inside stays out."""
    for name in catdog.__all__:
        getattr(catdog, name)  # they come when they are asked for
    # A type that only checkers import is shown as it stands in the code.
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("catdog", r"!catdog\..*", output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
