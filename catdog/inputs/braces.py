"""Brace expressions, as in names of shards: `shard-{000..999}.tar`, `{cat,dog}/`."""

from __future__ import annotations

import re

_MOST_NAMES = 100_000
_INNERMOST = re.compile(r"\{([^{}]*)\}")


def expanded(text: str) -> list[str]:
    """The names that a text expands to, in order, each once; the text itself if it has no braces.

    `{7..12}` counts, with zeros in front where a bound has them, up or down; `{a,b}` lists; braces
    around anything else are braces.

    Raises:
        ValueError: it stands for more than 100,000 names.
    """
    names: list[str] = []
    todo = [text]
    while todo:
        first = todo.pop()
        choices = next(
            ((found, each) for found in _INNERMOST.finditer(first) if (each := _choices(found[1]))),
            None,
        )
        if choices is None:
            names.append(first)
            continue
        braces, each = choices
        if len(todo) + len(each) + len(names) > _MOST_NAMES:
            raise ValueError(_TOO_MANY)
        before, after = first[: braces.start()], first[braces.end() :]
        todo += [before + choice + after for choice in reversed(each)]
    return list(dict.fromkeys(names))


_TOO_MANY = f"its braces stand for more than {_MOST_NAMES:,} names"


def _choices(inside: str) -> list[str]:
    """The names between braces; nothing if they are just braces."""
    bounds = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", inside)
    if bounds is None:
        return inside.split(",") if "," in inside else []
    first, last = int(bounds[1]), int(bounds[2])
    if abs(last - first) >= _MOST_NAMES:
        raise ValueError(_TOO_MANY)
    width = max(len(bound) if bound[0] == "0" else 1 for bound in bounds.groups())
    step = 1 if first <= last else -1
    return [str(number).zfill(width) for number in range(first, last + step, step)]
