"""Is the difference between two settings larger than what luck does? Student's t over runs with different seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..run_data import Array

POWER_AND_LEVEL = 1.959964 + 0.841621
"""Normal quantiles of 5 % two-sided and of 80 % power."""

MOST_SEEDS = 100
"""Nobody trains more: whatever needs more seeds is too small to matter."""


@dataclass(frozen=True)
class SeedTest:
    """What the runs of two groups say about their settings.

    Attributes:
        method: ``paired t over seeds`` or ``Welch t over seeds``.
        seeds: number of seeds in each group that were used.
        difference: mean of the first minus mean of the second.
        low: of the 95 % confidence interval; None without spread.
        high: of it.
        p: two-sided; None without spread, unless there is no difference either.
        needed: seeds in each group that would show a difference of this size four times in five; None if none would.
    """

    method: str
    seeds: tuple[int, int]
    difference: float
    low: float | None
    high: float | None
    p: float | None
    needed: int | None


def compare_seeds(a: Mapping[int, Sequence[float]], b: Mapping[int, Sequence[float]]) -> SeedTest | None:
    """Test two groups of runs.

    A seed that was run twice counts once, with its mean: its runs are no independent draws.

    Args:
        a: values by seed; negative seeds are not known, and have nothing in common
        b: the same

    Returns:
        a paired test if at least two seeds are common, else Welch's; None if a group is a single seed
    """
    common = [seed for seed in a if seed in b and seed >= 0]
    if len(common) > 1:
        return paired(_means(a, common), _means(b, common))
    if len(a) > 1 and len(b) > 1:
        return welch(_means(a, list(a)), _means(b, list(b)))
    return None


def paired(a: Array, b: Array) -> SeedTest:
    """Student's t of the differences, seed by seed."""
    n, each = len(a), a - b
    spread = _spread(each, a, b)
    error = spread / math.sqrt(n)
    needed = _needed(float(each.mean()), spread**2, 1.92, n)
    return _test("paired t over seeds", (n, n), float(each.mean()), error, n - 1, needed)


def welch(a: Array, b: Array) -> SeedTest:
    """Welch's t, for groups that may spread differently."""
    variances = [_spread(values, a, b) ** 2 for values in (a, b)]
    parts = [variance / len(values) for variance, values in zip(variances, (a, b), strict=True)]
    difference, error = float(a.mean() - b.mean()), math.sqrt(sum(parts))
    weights = [part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True)]
    freedom = sum(parts) ** 2 / sum(weights) if error > 0 else math.nan
    needed = _needed(difference, sum(variances), 0.96, max(len(a), len(b)))
    return _test("Welch t over seeds", (len(a), len(b)), difference, error, freedom, needed)


def _means(values: Mapping[int, Sequence[float]], seeds: Sequence[int]) -> Array:
    return np.array([np.mean(values[seed]) for seed in seeds], dtype=np.float64)


def _spread(values: Array, *scale: Array) -> float:
    spread = float(np.std(values, ddof=1))
    # Equal values differ in their last bits once they were subtracted: that is no spread.
    return spread if spread > 1e-12 * max(float(np.abs(part).max()) for part in scale) else 0.0


def _test(
    method: str, seeds: tuple[int, int], difference: float, error: float, freedom: float, needed: int | None
) -> SeedTest:
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415 - takes a third of a second to load

    if error == 0:
        # Runs that differ by exactly the same would "prove" anything: no spread is no knowledge of chance.
        return SeedTest(method, seeds, difference, None, None, 1.0 if difference == 0 else None, None)
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    reach = float(stdtrit(freedom, 0.975)) * error
    return SeedTest(method, seeds, difference, difference - reach, difference + reach, p, needed)


def _needed(difference: float, variance: float, small_sample: float, have: int) -> int | None:
    """The usual formula with its correction for few seeds; more than there are, as those were too few."""
    if difference == 0 or variance == 0:
        return None
    wanted = POWER_AND_LEVEL**2 * variance / difference**2 + small_sample
    return max(math.ceil(min(wanted, MOST_SEEDS + 1)), have + 1)
