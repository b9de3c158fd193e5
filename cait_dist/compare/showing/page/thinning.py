"""Long curves with fewer points that draw the same picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...run_data import Array, Curve


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
    stretch = np.searchsorted(np.linspace(steps[0], steps[-1], stretches + 1)[1:-1], steps, side="right")
    ends = np.array([0, len(steps) - 1])
    return np.unique(np.concatenate([ends, _extremes(stretch, values, finite), _first_of_each(stretch, ~finite)]))


def _extremes(stretch: NDArray[np.int64], values: Array, finite: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Places of the lowest and the highest finite value of each stretch that has any."""
    places = np.flatnonzero(finite)
    ordered = places[np.lexsort((values[places], stretch[places]))]
    turns = np.flatnonzero(np.diff(stretch[ordered]))
    return ordered[np.concatenate([[0], turns + 1, turns, [len(ordered) - 1]])] if len(ordered) else ordered


def _first_of_each(stretch: NDArray[np.int64], wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    places = np.flatnonzero(wanted)
    return places[np.unique(stretch[places], return_index=True)[1]]
