"""The plots of groups and tests, and the curves that are there without a script. Places are in percent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...comparison import Comparison, Group, PairTest
from ...run_data import Curve
from ...wording import interval, p_value
from .format import DASH, score, signed
from .looks import Look, looks_of
from .metrics import average_of, split_average
from .scale import Scale, Tick, scale_around
from .thinning import thin


@dataclass(frozen=True)
class Dot:
    """One seed of a group."""

    x: float
    look: Look
    text: str
    counts: bool


@dataclass(frozen=True)
class GroupLine:
    """One group in the plot of seeds: places are None where there is nothing to draw, `left_out` does not count."""

    label: str
    baseline: bool
    n: int
    mean: str
    spread: str
    dots: list[Dot]
    left_out: list[str]
    middle: float | None
    band: tuple[float, float] | None


@dataclass(frozen=True)
class IntervalLine:
    """One test with its confidence interval."""

    sentence: str
    method: str
    difference: str
    interval: str
    p: str
    significant: bool
    at: float | None
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Lines:
    """Curves as SVG paths in a square of 1000 by 1000, with the axes' ticks."""

    paths: list[tuple[Look, bool, str]]
    across: list[Tick]
    up: list[Tick]


def group_lines(comparison: Comparison) -> tuple[list[GroupLine], list[Tick]]:
    """The groups, and the ticks of the scale that they share."""
    groups = comparison.groups
    ends = [end for group in groups for end in (group.mean - (group.spread or 0), group.mean + (group.spread or 0))]
    scale = scale_around([*ends, *(value for group in groups for value in group.values)])
    lines = [_group_line(comparison, group, scale) for group in groups]
    return lines, scale.ticks(4) if scale else []


def _group_line(comparison: Comparison, group: Group, scale: Scale | None) -> GroupLine:
    looks, metric = looks_of(comparison), comparison.metric
    dots, left_out = [], []
    for run, seed, value in zip(group.runs, group.seeds, group.values, strict=True):
        counts = run not in group.left_out and math.isfinite(value)
        shown = score(metric, value) if math.isfinite(value) else "no finite value"
        text = f"{run}{f', seed {seed}' if seed >= 0 else ''}: {shown}"
        if scale and math.isfinite(value) and run in looks:
            dots.append(Dot(scale(value), looks[run], text if counts else f"{text}, does not count", counts))
        left_out += [] if counts else [text]
    known = scale if math.isfinite(group.mean) else None
    return GroupLine(
        label=group.label,
        baseline=group.label == comparison.baseline,
        n=group.n,
        mean=score(metric, group.mean) if math.isfinite(group.mean) else DASH,
        spread=DASH if group.spread is None else score(metric, group.spread),
        dots=dots,
        left_out=left_out,
        middle=known(group.mean) if known else None,
        band=(known(group.mean - group.spread), known(group.mean + group.spread)) if known and group.spread else None,
    )


def interval_lines(comparison: Comparison) -> tuple[list[IntervalLine], list[Tick], float]:
    """The tests, the ticks of the scale that they share, and the place of no difference."""
    values = [value for test in comparison.tests for value in (test.difference, test.low, test.high)]
    scale = scale_around([0.0, *values])
    assert scale is not None, "zero is finite"
    return [_interval_line(comparison.metric, test, scale) for test in comparison.tests], scale.ticks(5), scale(0.0)


def _interval_line(metric: str, test: PairTest, scale: Scale) -> IntervalLine:
    ends = None
    if test.low is not None and test.high is not None and math.isfinite(test.low) and math.isfinite(test.high):
        ends = test.low, test.high
    return IntervalLine(
        sentence=test.sentence,
        method="no test" if test.method == "none" else test.method,
        difference=signed(metric, test.difference),
        interval=interval(metric, *ends) if ends else DASH,
        p=DASH if test.p is None else p_value(test.p),
        significant=test.significant,
        at=scale(test.difference) if math.isfinite(test.difference) else None,
        ends=(scale(ends[0]), scale(ends[1])) if ends else None,
    )


def still_curves(comparison: Comparison, points: int = 60) -> Lines | None:
    """The deciding metric over steps, for readers without a script and for print; None if no run has it."""
    key = split_average(comparison.metric)[0]
    looks = looks_of(comparison)
    found = [
        (looks[run.name], average, thin(run.curves[name], points))
        for run in comparison.runs
        for name, average in ((key, False), (average_of(key), True))
        if name in run.curves
    ]
    across = scale_around(
        [end for _, _, curve in found for end in (*curve.steps[:1].tolist(), *curve.steps[-1:].tolist())], 0.0
    )
    up = scale_around([float(value) for _, _, curve in found for value in curve.values], 0.04)
    if across is None or up is None:
        return None
    return Lines([(look, average, _path(c, across, up)) for look, average, c in found], across.ticks(5), up.ticks(5))


def _path(curve: Curve, across: Scale, up: Scale) -> str:
    parts, pen = [], "M"
    for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
        if np.isfinite(value):
            parts.append(f"{pen}{10 * across(step):.0f} {1000 - 10 * up(value):.0f}")
        pen = "L" if np.isfinite(value) else "M"
    return "".join(parts)
