"""What accuracy costs: the deciding metric against parameters, multiply-adds and device-hours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...comparison import Comparison, PaperRow, RunRow
from .format import compact, score
from .looks import Look, looks_of
from .scale import Scale, Tick, scale_around

LABEL_WIDTH, LABEL_HEIGHT = 24.0, 6.5
TICK_WIDTH = 17.0
"""Room that a label and the text of a tick take in a plot of usual size, in percent."""


@dataclass(frozen=True)
class Point:
    """A run, or a row of the paper (which has no look). `label` is empty where there is no room for it."""

    x: float
    y: float
    text: str
    label: str
    look: Look | None


@dataclass(frozen=True)
class Scatter:
    """One plot.

    Attributes:
        title: of the plot and its horizontal axis.
        points: those of the paper first.
        frontier: path of the runs' best trade-offs in a square of 1000 by 1000.
        paper_frontier: the same for the paper's rows; empty without them.
        across: ticks of the horizontal axis.
        up: ticks of the vertical axis.
        remark: why there is no plot; empty if there is one.
    """

    title: str
    points: list[Point]
    frontier: str
    paper_frontier: str
    across: list[Tick]
    up: list[Tick]
    remark: str = ""


Spot = tuple[float, float, str, str, Look | None]
"""Cost, value, text, label, look."""


def scatters(comparison: Comparison) -> list[Scatter]:
    """Parameters, multiply-adds and device-hours."""
    facts = {run.name: run.facts for run in comparison.runs}
    parameters = {row.name: facts[row.name].parameters for row in comparison.rows if row.name in facts}
    macs = {row.name: facts[row.name].macs for row in comparison.rows if row.name in facts}
    hours = {row.name: row.efficiency.device_hours for row in comparison.rows}
    return [
        _scatter(comparison, "Parameters", parameters, {row: row.parameters for row in comparison.paper}),
        _scatter(comparison, "Multiply-adds per image", macs, {row: row.macs for row in comparison.paper}),
        _scatter(comparison, "Device-hours", hours, {}),
    ]


def paper_name(row: PaperRow) -> str:
    """A row of the paper in a few words: ``CaiT-S24 ↑384 distilled``."""
    return f"{row.model} at {row.image_size}{' distilled' if row.distilled else ''}"


def _scatter(
    comparison: Comparison, title: str, costs: Mapping[str, float | None], paper: Mapping[PaperRow, int]
) -> Scatter:
    metric, looks = comparison.metric, looks_of(comparison)
    found = [_run_spot(metric, row, looks[row.name], title, costs.get(row.name)) for row in comparison.rows]
    ours = [spot for spot in found if spot]
    theirs = [_paper_spot(row, title, cost) for row, cost in paper.items()] if _on_imagenet(metric) else []
    if not ours:
        return _without(title, "no run has both this number and the metric")
    if not theirs and len({spot[0] for spot in ours}) == 1:
        return _without(title, f"all runs have the same: {compact(ours[0][0])}")
    costs_here = [spot[0] for spot in ours + theirs]
    across = scale_around(costs_here, 0.1, log=max(costs_here) / max(min(costs_here), 1e-12) > 5)
    up = scale_around([spot[1] for spot in ours + theirs], 0.1)
    assert across is not None, "every spot has a cost above zero"
    assert up is not None, "and a finite value"
    return Scatter(
        title=title,
        points=_points(theirs, across, up) + _points(ours, across, up),
        frontier=_frontier(ours, across, up, comparison.higher_is_better),
        paper_frontier=_frontier(theirs, across, up, True),
        across=_thinned(across.ticks(4)),
        up=up.ticks(5),
    )


def _without(title: str, remark: str) -> Scatter:
    return Scatter(title, [], "", "", [], [], remark)


def _thinned(ticks: list[Tick]) -> list[Tick]:
    """Ticks whose texts have room beside each other."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at >= TICK_WIDTH:
            kept.append(tick)
    return kept


def _on_imagenet(metric: str) -> bool:
    return metric.endswith("/top1")


def _run_spot(metric: str, row: RunRow, look: Look, title: str, cost: float | None) -> Spot | None:
    value = row.last.get(metric, math.nan)
    if cost is None or not math.isfinite(cost) or cost <= 0 or not math.isfinite(value):
        return None
    text = f"{row.name}: {score(metric, value)} · {title}: {compact(cost)}"
    return cost, value, text, "", look


def _paper_spot(row: PaperRow, title: str, cost: float) -> Spot:
    text = f"{paper_name(row)}: {row.top1:g} · {title}: {compact(cost)} · {row.source}"
    return cost, row.top1, text, f"{row.model.removeprefix('CaiT-')} {row.image_size}", None


def _points(spots: list[Spot], across: Scale, up: Scale) -> list[Point]:
    found: list[Point] = []
    for cost, value, text, label, look in sorted(spots, key=lambda spot: -spot[1]):
        x, y = across(cost), round(100 - up(value), 2)
        crowded = any(_near(x, y, other) for other in found if other.label)
        found.append(Point(x, y, text, "" if crowded else label, look))
    return found


def _near(x: float, y: float, other: Point) -> bool:
    return abs(x - other.x) < LABEL_WIDTH and abs(y - other.y) < LABEL_HEIGHT


def _frontier(spots: list[Spot], across: Scale, up: Scale, higher_is_better: bool) -> str:
    """Steps along the spots that no other spot beats at the same or a lower cost."""
    sign = 1 if higher_is_better else -1
    best, corners = -math.inf, list[tuple[float, float]]()
    for cost, value, *_ in sorted(spots, key=lambda spot: (spot[0], -sign * spot[1])):
        if sign * value > best:
            best = sign * value
            corners.append((10 * across(cost), 1000 - 10 * up(value)))
    if not corners:
        return ""
    steps = "".join(f"H{x:.0f}V{y:.0f}" for x, y in corners[1:])
    return f"M{corners[0][0]:.0f} {corners[0][1]:.0f}{steps}H1000"
