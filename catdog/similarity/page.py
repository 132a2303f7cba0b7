"""One self-contained HTML page of groups of pictures."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jinja2


@dataclass(frozen=True)
class Picture:
    """One picture of a group: its URI, what is said below it, and a `data:` URI of it small."""

    uri: str
    said: str
    thumbnail: str | None

    @property
    def name(self) -> str:
        """The last part of its URI, without an archive's."""
        return self.uri.split("::")[0].rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Group:
    """Pictures that belong together, under a heading."""

    title: str
    pictures: Sequence[Picture]


def write(output: str, title: str, lead: str, groups: Sequence[Group]) -> None:
    """Write the page.

    Args:
        output: URI of the HTML file.
        title: heading.
        lead: the sentence below it.
        groups: shown in this order.
    """
    text = _template().render(title=title, lead=lead, groups=groups)
    storage.write_atomic(output, text.encode("utf-8", "replace"))


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    loader = jinja2.PackageLoader("catdog.similarity")
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("groups.html.j2")
