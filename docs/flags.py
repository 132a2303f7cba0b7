"""The tables of flags and recipes in the documents, from the commands' help and the code.

    python docs/flags.py

writes them anew, between the two comments that mark each one. `tests/test_docs.py` fails where a
table is not what this would write, so that they cannot disagree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
_MARKED = re.compile(
    r"(<!-- (flags of catdog \w+|recipes): `python docs/flags\.py` writes them -->\n)"
    r".*?(<!-- end -->)",
    re.DOTALL,
)


def table(command: str) -> str:
    """A Markdown table of all that a command takes."""
    rows = ["| | default | |", "| --- | --- | --- |"]
    for name, text in _described(command):
        found = re.fullmatch(r"(.*?) ?\((?:default: (.*)|(required))\)", text)
        said, default = (found[1], _shown(found[2])) if found else (text, "")
        rows.append(f"| `{name}` | {default} | {said} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def _shown(default: str | None) -> str:
    """A value as code, words as they are."""
    if default is None:
        return "required"
    return default if " " in default or "`" in default else f"`{default}`"


def recipes() -> str:
    """A Markdown table of how each architecture is trained where no flag says otherwise."""
    from catdog.training import ARTICLE, COMPACT, COMPACT_SHORT, PROBE, TRANSFER

    rows = [
        "| | `compact` | `compact`, short runs | `article` | `EfficientNetLite0` | keras.applications |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    kinds = (COMPACT, COMPACT_SHORT, ARTICLE, PROBE, TRANSFER)
    for name in dataclasses.asdict(COMPACT):
        values = (getattr(recipe, name) for recipe in kinds)
        flag = f"--{name.replace('_', '-')}"
        rows.append(f"| `{flag}` | " + " | ".join(f"{value}" for value in values) + " |")
    return "\n".join(rows) + "\n"


def _described(command: str) -> list[tuple[str, str]]:
    """What stands in the boxes of the help: a flag with its value, and its sentence."""
    items: list[tuple[str, str]] = []
    positional = False
    # Printed to no terminal, a box is a title after one space, a rule, and lines after two.
    for line in help_of(command).splitlines():
        if re.match(r" [a-z]", line):
            positional = line.strip() == "positional arguments"
        elif line.startswith("   "):
            if items and line.strip():
                items[-1] = (items[-1][0], f"{items[-1][1]} {line.strip()}".strip())
        elif line.startswith("  ") and (positional or line.startswith("  --")):
            name, _, text = line.strip().partition("  ")
            if name.strip("-"):
                items.append((name, text.strip()))
    return items


def help_of(command: str) -> str:
    """`catdog COMMAND --help`, its boxes one below the other."""
    from catdog.cli import main

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"  # a wider help of many flags has two columns
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([command, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return text.getvalue()


def written(text: str) -> str:
    """A document with its tables as they should be."""

    def fill(found: re.Match[str]) -> str:
        content = recipes() if found[2] == "recipes" else table(found[2].split()[-1])
        return found[1] + content + found[3]

    return _MARKED.sub(fill, text)


if __name__ == "__main__":
    for document in sorted(DOCS.glob("*.md")):
        before = document.read_text()
        if (after := written(before)) != before:
            document.write_text(after)
            sys.stdout.write(f"wrote {document}\n")
