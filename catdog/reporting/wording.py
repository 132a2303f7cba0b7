"""How the page writes numbers, sizes and names from strangers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from catdog import terminal
from catdog.errors import ErrorCode, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MEANINGS: dict[str, str] = {
    ErrorCode.MISSING: "Listed, but gone when it was to be read.",
    ErrorCode.FORBIDDEN: "Access was refused.",
    ErrorCode.UNREADABLE: "The bytes could not be fetched.",
    ErrorCode.EMPTY: "Nothing in the file.",
    ErrorCode.NOT_AN_IMAGE: "Something else under the name of an image.",
    ErrorCode.TRUNCATED: "Damaged, or cut off.",
    ErrorCode.UNSUPPORTED: "A format, or a kind of it, that is not decoded.",
    ErrorCode.TOO_LARGE: "Beyond a limit on pixels, bytes or memory.",
    ErrorCode.CRASHED: "It ended the process that decoded it; the job went on.",
    ErrorCode.TIMEOUT: "Decoding took too long; the job went on.",
}
STAGES = {
    "read": "waiting for bytes",
    "decode": "bytes to pixels",
    "predict": "pixels to scores",
    "write": "rows to Parquet",
}


def flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values under dotted names, without lists and long names."""
    pairs: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            pairs.append((prefix + name, f"{value:,}" if isinstance(value, int) else f"{value:g}"))
    return pairs


def first(items: Sequence[str], count: int) -> list[str]:
    """The first items, and how many more there are."""
    rest = len(items) - count
    return [*items[:count], *([f"and {rest:,} more"] if rest > 0 else [])]


def shown(text: Any) -> str:
    """Text in which characters that hide or reorder others are spelled out, as `<U+202E>`."""
    return "".join(
        c
        if c.isprintable()
        else f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{ord(c):04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"
        for c in str(text)
    )


def file_names(uris: Iterable[str]) -> dict[str, str]:
    """A name for each URI that no other has: the file's, with as many folders as that takes.

    The folders of a member go up to its archive, and on to the archive's own.
    """
    parts = {uri: _path(uri) for uri in uris}
    names: dict[str, str] = {}
    depth, left = 1, parts
    while left:
        tails = {uri: "/".join(path[-depth:]) for uri, path in left.items()}
        shared = {tail for tail, count in Counter(tails.values()).items() if count > 1}
        left = {
            uri: path for uri, path in left.items() if tails[uri] in shared and depth < len(path)
        }
        names |= {uri: tail or uri for uri, tail in tails.items() if uri not in left}
        depth += 1
    return names


def _path(uri: str) -> list[str]:
    """The folders and the name of a URI; of a member after those of its archive."""
    whole = "://" not in uri or uri.startswith(("file://", "s3://"))
    inner_first = [uri] if whole else uri.split("::")
    paths = (each.rpartition("://")[2] for each in reversed(inner_first))
    return [part for path in paths for part in path.split("/") if part]


def number(value: float) -> str:
    """A whole number with separated thousands."""
    return f"{value:,.0f}"


def images(count: int) -> str:
    """So many images."""
    return counted(count, "image")


def percent(share: float, digits: int = 1) -> str:
    """A share in percent; only exact values become 0 % or 100 %."""
    text = f"{share:.{digits}%}"
    least = 10**-digits
    if share < 1 and text == f"{1:.{digits}%}":
        return f"{(100 - least):.{digits}f}%"
    if share > 0 and text == f"{0:.{digits}%}":
        return f"<{least:g}%"
    return text


def size(count: float | None) -> str:
    """A number of bytes with a unit, for people."""
    if count is None:
        return "size unknown"
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"


def moment(stamp: str) -> str:
    """`2026-11-22T15:57:57Z` for people."""
    return stamp.replace("T", " ").replace("Z", " UTC")


def duration(seconds: float) -> str:
    """Seconds with units, for people."""
    return terminal.duration(seconds)
