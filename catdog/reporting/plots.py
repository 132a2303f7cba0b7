"""The page's plots; each has a table beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catdog import evaluation
from catdog.reporting.canvas import ACCENT, INK, QUIET, Canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from catdog.reporting.canvas import Plot
    from catdog.reporting.figures import TrustBin
    from catdog.reporting.throughput import Speed


def histogram_plot(
    counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], name: str
) -> Plot:
    """Images by probability; bars `bar-0` and on, and a line `mark` at the left end."""
    canvas = Canvas(420, 150, edges[0], edges[-1])
    bars = canvas.axes.bar(
        edges[:-1], counts, np.diff(edges) * 0.86, align="edge", color=ACCENT, linewidth=0
    )
    for number, bar in enumerate(bars):
        bar.set_gid(f"bar-{number}")
    canvas.axes.axvline(edges[0], color=INK, linewidth=1.5).set_gid("mark")
    canvas.roots(int(counts.max()))
    canvas.shares(canvas.axes.xaxis)
    return canvas.plot(name)


def trust_plot(bins: Sequence[TrustBin], name: str) -> Plot:
    """The share of right answers by probability, beside the line of perfect calibration."""
    low, high = bins[0].low, bins[-1].high
    canvas = Canvas(420, 220, low, high)
    shown = [(each, each.share) for each in bins if each.share is not None]
    middles = [(each.low + each.high) / 2 for each, _ in shown]
    shares = [share for _, share in shown]
    intervals = [
        evaluation.wilson_interval(round(share * each.images), each.images) for each, share in shown
    ]
    known = np.array([each.images for each, _ in shown])
    edges = [*(each.low for each in bins), high]
    canvas.axes.plot(edges, edges, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
    canvas.axes.vlines(middles, *np.transpose(intervals), color=ACCENT, linewidth=6, alpha=0.2)
    # No line from dot to dot: it would be seen most where there is least to see.
    sizes = 14 + 130 * known / known.sum()
    canvas.axes.scatter(middles, shares, sizes, color=ACCENT, linewidth=0, clip_on=False, zorder=3)
    canvas.axes.set_ylim(0, 1.02)
    canvas.shares(canvas.axes.xaxis)
    canvas.shares(canvas.axes.yaxis)
    return canvas.plot(name)


def curves_plot(
    lines: Sequence[tuple[Sequence[float], Sequence[float]]], coloured: int, name: str
) -> Plot:
    """Curves from 0 to 1, quiet ones behind the coloured one; ROC curves with the line of chance."""
    canvas = Canvas(420, 260, -0.01, 1.01)
    if name == "roc_auc":
        canvas.axes.plot((0, 1), (0, 1), color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
    for number, (x, y) in enumerate(lines):
        if number != coloured:
            canvas.axes.plot(x, y, color=QUIET, linewidth=1.2)
    canvas.axes.plot(*lines[coloured], color=ACCENT, linewidth=2)
    canvas.axes.set_ylim(0, 1.02)
    canvas.shares(canvas.axes.xaxis)
    canvas.shares(canvas.axes.yaxis)
    return canvas.plot(name)


def speed_plot(speed: Speed, name: str) -> tuple[Plot, str]:
    """The plot, and the unit of its time."""
    total = float(speed.edges_s[-1])
    unit, divisor = next(
        (unit, size)
        for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if total >= 2 * size or size == 1
    )
    canvas = Canvas(420, 190, 0, total / divisor)
    edges = speed.edges_s / divisor
    canvas.axes.stairs(speed.images_per_s, edges, fill=True, color=ACCENT, alpha=0.18, linewidth=0)
    canvas.axes.stairs(speed.images_per_s, edges, color=ACCENT, linewidth=2)
    for stop in speed.stops_s:
        canvas.axes.axvline(stop / divisor, color=INK, linewidth=1, linestyle=(0, (3, 3)))
    canvas.counts(float(speed.images_per_s.max()))
    return canvas.plot(name), unit
