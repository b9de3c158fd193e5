"""Long curves with fewer points that draw the same picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .run_data import Array, Curve


def share_points(lengths: Sequence[int], total: int, least: int, most: int) -> list[int]:
    """Share a number of points among curves: short ones keep all of theirs, long ones get the same number each.

    Args:
        lengths: points of the curves.
        total: points to share; exceeded only where ``least`` demands it.
        least: what every curve may have.
        most: what no curve needs more of.
    """
    left, each = total, 0
    for done, length in enumerate(sorted(min(n, most) for n in lengths)):
        each = left // (len(lengths) - done)
        left -= min(length, each)
    return [min(n, max(least, min(each, most))) for n in lengths]


def thin(curve: Curve, points: int) -> Curve:
    """At most so many real points of a curve: its ends, and of each stretch of steps the lowest and the highest value.

    One that is not finite is kept of every stretch that has any.
    """
    if len(curve.steps) <= max(points, 2):
        return curve
    kept = _kept(curve.steps, curve.values, max(points - 2, 2))
    return Curve(curve.steps[kept], curve.values[kept], curve.times[kept])


def _kept(steps: Array, values: Array, points: int) -> NDArray[np.int64]:
    finite = np.isfinite(values)
    stretches = max(1, points // (2 if finite.all() else 3))
    edges = np.searchsorted(steps, np.linspace(steps[0], steps[-1], stretches + 1)[1:-1])
    kept = {0, len(steps) - 1}
    for begin, end in zip([0, *edges], [*edges, len(steps)], strict=True):
        kept.update(_extremes(values, finite, int(begin), int(end)))
    return np.array(sorted(kept), dtype=np.int64)


def _extremes(values: Array, finite: NDArray[np.bool_], begin: int, end: int) -> list[int]:
    here = finite[begin:end]
    found = [] if here.all() else [begin + int(np.argmin(here))]
    if here.any():
        part = values[begin:end]
        found.append(begin + int(np.argmin(np.where(here, part, np.inf))))
        found.append(begin + int(np.argmax(np.where(here, part, -np.inf))))
    return found
