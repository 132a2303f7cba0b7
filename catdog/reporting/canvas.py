"""Axes that matplotlib draws and the page's style sheet colours, as inline SVG."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

ACCENT, QUIET, LINE, INK = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2)  # between ticks of shares
_COLOURS = {
    ACCENT: "var(--accent)",
    QUIET: "var(--muted)",
    LINE: "var(--line)",
    INK: "var(--ink)",
}


@dataclass(frozen=True)
class Plot:
    """An inline SVG; x values from `low` to `high` lie from `left` to `right` in its view box."""

    svg: Markup
    left: float
    right: float
    low: float
    high: float


class Canvas:
    """Axes of a plot. Its units are those of the SVG's view box, about CSS pixels on a phone."""

    def __init__(self, width: float, height: float, low: float, high: float) -> None:
        from matplotlib.figure import Figure

        self._width, self._left, self._right = width, 44.0, width - 12
        self._low, self._high = low, high
        bottom, top = 28.0, height - 8
        self.figure: Figure = Figure(figsize=(width / 72, height / 72))
        self.axes = self.figure.add_axes(
            (
                self._left / width,
                bottom / height,
                (self._right - self._left) / width,
                (top - bottom) / height,
            )
        )
        self.axes.set_xlim(low, high)
        self.axes.set_axisbelow(True)
        self.axes.grid(axis="y", color=LINE, linewidth=1)
        self.axes.tick_params(length=0, labelsize=11, labelcolor=QUIET, pad=5)
        self.axes.tick_params(axis="x", pad=8)
        for side, spine in self.axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(LINE)

    def counts(self, most: float) -> None:
        """The y axis shows numbers of images up to `most`."""
        from matplotlib.ticker import EngFormatter, MaxNLocator

        self.axes.set_ylim(0, most * 1.08 or 1)
        self.axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        self.axes.yaxis.set_major_formatter(EngFormatter(sep=""))

    def roots(self, most: int) -> None:
        """The same by their square roots: the few doubtful ones are seen beside the many others."""
        from matplotlib.ticker import EngFormatter

        self.axes.set_yscale("function", functions=(np.sqrt, np.square))
        self.axes.set_ylim(0, most * 1.08 or 1)
        round_numbers = [k * 10**power for power in range(16) for k in (1, 2, 5)]
        ticks = {
            max((r for r in round_numbers if r <= most / part), default=0) for part in (1, 4, 25)
        }
        self.axes.set_yticks(sorted({0, *ticks}))
        self.axes.yaxis.set_major_formatter(EngFormatter(sep=""))

    def shares(self, axis: Any) -> None:
        """An axis shows percents, whole and round ones."""
        from matplotlib.ticker import MultipleLocator, PercentFormatter

        low, high = axis.get_view_interval()
        step = next(each for each in _TICKS if high - low <= 5.5 * each)
        axis.set_major_locator(MultipleLocator(step))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    def plot(self, name: str) -> Plot:
        """The finished plot; `name` makes its ids the only ones of their kind in the page."""
        return Plot(_svg(self.figure, name), self._left, self._right, self._low, self._high)


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as markup without a header, metadata and unused ids."""
    from markupsafe import Markup
    from matplotlib import rc_context

    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: [^;\"]*;? ?", "", svg)  # the page's own
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))

    def rename(match: re.Match[str]) -> str:
        own = match[1]
        return f' id="{name}-{own}"' if own in used or own.startswith(("bar-", "mark")) else ""

    svg = re.sub(r' id="([^"]*)"', rename, svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    for sentinel, colour in _COLOURS.items():
        svg = svg.replace(sentinel, colour)
    return Markup(svg)  # noqa: S704 - drawn here from numbers alone
