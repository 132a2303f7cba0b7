"""Renders templates into pages: one HTML file each, with its styles, scripts and pictures inside.

A page is a template that extends `page.html.j2`, and shows pictures with the macros of
`pictures.html.j2`. Its scripts share one scope, `page.js` first, so that the page's
Content-Security-Policy can name them by one digest.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.reporting import wording

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jinja2

_FOLDER = Path(__file__).with_name("templates")


def render(template: str, scripts: Sequence[str], content: dict[str, Any]) -> str:
    """The whole page.

    Args:
        template: name of a file in `templates/`.
        scripts: names of files in `templates/`, besides `page.js`.
        content: values of the template's variables.
    """
    from markupsafe import Markup

    texts = [(_FOLDER / name).read_text("utf-8") for name in ("page.js", *scripts)]
    script = '"use strict";\n(() => {\n' + "\n".join(texts) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((_FOLDER / "page.css").read_text("utf-8")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own files
            script_digest=digest,
            **content,
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """What reads the templates; it compiles each of them once."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("shown", "number", "counted", "images", "percent", "size", "duration", "moment")
    environment.filters.update({name: getattr(wording, name) for name in names})
    return environment
