"""Images per second over the time that workers worked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from catdog.reporting.counting import Timing


@dataclass(frozen=True)
class Speed:
    """Throughput over the time that workers worked.

    Attributes:
        edges_s: seconds of work at which the bins start and end.
        images_per_s: throughput in each bin.
        stops_s: seconds of work at which the job was interrupted and later resumed.
    """

    edges_s: npt.NDArray[np.float64]
    images_per_s: npt.NDArray[np.float64]
    stops_s: list[float]


def throughput(timings: Sequence[Timing]) -> Speed | None:
    """Throughput, from the start and end of each part file; None if there are too few."""
    if len(timings) < 3:
        return None
    timings = sorted(timings, key=lambda timing: timing.ended_at)
    ends = np.array([timing.ended_at for timing in timings])
    # Where only the end is known, a part took the time since the one before.
    before = np.r_[ends[0], ends[:-1]]
    starts = np.array(
        [
            before[number] if timing.started_at is None else timing.started_at
            for number, timing in enumerate(timings)
        ]
    )
    starts = np.minimum(starts, ends - 1e-3)
    images = np.array([timing.images for timing in timings], np.float64)
    # Time in which nobody worked (between a kill and the next run) is cut out.
    order = np.argsort(starts)
    begun, reached = starts[order], np.maximum.accumulate(ends[order])
    idle = np.r_[0.0, np.where(begun[1:] - reached[:-1] > 2, begun[1:] - reached[:-1], 0)]
    lost, at = np.cumsum(idle), begun

    def worked(moment: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        passed = np.maximum(np.searchsorted(at, moment, side="right") - 1, 0)
        cut: npt.NDArray[np.float64] = moment - at[0] - lost[passed]
        return cut

    first, last = worked(starts), worked(ends)
    bins = int(np.clip(len(timings), 6, 60))
    edges = np.linspace(0, last.max(), bins + 1)
    done = np.array(
        [(images * np.clip((edge - first) / (last - first), 0, 1)).sum() for edge in edges]
    )
    return Speed(edges, np.diff(done) / np.diff(edges), worked(begun[idle > 0]).tolist())
