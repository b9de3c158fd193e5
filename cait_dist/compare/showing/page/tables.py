"""The tables of the page, as text that is ready to be shown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...comparison import Comparison, Efficiency, RunRow
from ...measures import higher_is_better
from ...run_data import RunData
from .format import DASH, count, duration, number, percent, score, signed
from .looks import Look, in_order, looks_of
from .metrics import average_of, family_of, split_average, title_of
from .scatter import paper_name


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the number it is sorted by, and whether it is the best of its column."""

    text: str
    value: float | None = None
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A run's row of a table."""

    name: str
    look: Look
    outcome: str
    cells: list[Cell]


@dataclass(frozen=True)
class Column:
    """A column's heading; `top` is the heading of several columns beside each other."""

    title: str
    top: str = ""
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Headings and rows."""

    columns: list[Column]
    lines: list[Line]

    @property
    def tops(self) -> list[tuple[str, int]]:
        """Headings over several columns, with their number of columns."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.top:
                found[-1] = (column.top, found[-1][1] + 1)
            else:
                found.append((column.top, 1))
        return found


Values = list[float | None]


def results_table(comparison: Comparison) -> Table:
    """Outcome, length, and the last and best value of every evaluation metric, moving average beside raw."""
    rows = comparison.rows
    columns = [Column("Steps"), Column("Epochs")]
    cells = [
        [Cell(count(row.steps), row.steps) for row in rows],
        [Cell(number(row.epochs, 4), row.epochs) for row in rows],
    ]
    for key in _evaluation_keys(comparison):
        for title, values in _four_columns(rows, key):
            columns.append(Column(title, top=title_of(key)))
            cells.append(_scored(comparison, key, values))
    if any(row.paper.row or row.paper.reasons for row in rows):
        columns += [Column("Its row"), Column("Distance", help="Points of top-1 above the paper's row.")]
        cells += [[_paper_row(row) for row in rows], [_paper_distance(row) for row in rows]]
        columns[-2:] = [Column(column.title, "In the paper", column.help) for column in columns[-2:]]
    return Table(columns, _lines(comparison, cells))


def _evaluation_keys(comparison: Comparison) -> list[str]:
    keys = {split_average(key)[0] for row in comparison.rows for key in (*row.last, *row.best)}
    deciding = split_average(comparison.metric)[0]
    return sorted(
        {key for key in keys if family_of(key) == "evaluation"} | {deciding}, key=lambda k: (k != deciding, k)
    )


def _four_columns(rows: tuple[RunRow, ...], key: str) -> list[tuple[str, Values]]:
    average = average_of(key)
    found: list[tuple[str, Values]] = [
        ("last", [row.last.get(key) for row in rows]),
        ("last, EMA", [row.last.get(average) for row in rows]),
        ("best", [row.best.get(key) for row in rows]),
        ("best, EMA", [row.best.get(average) for row in rows]),
    ]
    return [(title, values) for title, values in found if title == "last" or any(v is not None for v in values)]


def _scored(comparison: Comparison, key: str, values: Values) -> list[Cell]:
    deciding = key == split_average(comparison.metric)[0]
    best = _best(values, comparison.higher_is_better if deciding else higher_is_better(key))
    return [Cell(score(key, value), value, best=best is not None and value == best) for value in values]


def _paper_row(row: RunRow) -> Cell:
    paper = row.paper.row
    return Cell(DASH) if paper is None else Cell(f"{paper_name(paper)}: {paper.top1:g}", paper.top1, note=paper.source)


def _paper_distance(row: RunRow) -> Cell:
    distance = row.paper
    if distance.difference is not None:
        return Cell(signed("val/top1", distance.difference), distance.difference)
    return Cell(f"not comparable: {'; '.join(distance.reasons)}" if distance.reasons else DASH)


def _four(value: float | None) -> str:
    return number(value, 4)


Cost = tuple[str, str, Callable[[Efficiency], float | None], Callable[[float | None], str], bool | None]
"""Title, meaning, where it is, how it is written, whether more is better (None: neither)."""

COSTS: tuple[Cost, ...] = (
    ("Images/s", "typical speed of training over all devices", lambda e: e.images_per_second, _four, True),
    ("Images/s per device", "the same for one device", lambda e: e.images_per_second_per_device, _four, True),
    ("MFU", "share of the devices' peak reached by the model's own arithmetic", lambda e: e.mfu, percent, True),
    ("Scaling", "speed per device, relative to the run on the fewest devices", lambda e: e.scaling, percent, True),
    ("Device-hours", "hours that devices were held", lambda e: e.device_hours, _four, False),
    ("Cost", "device-hours times the price that was given", lambda e: e.cost, _four, False),
    ("Wall time", "from the beginning to the last sign of life", lambda e: e.wall_seconds, duration, False),
    ("Time to target", "wall time until the target was first reached", lambda e: e.seconds_to_target, duration, False),
    ("Device-hours to target", "the same in device-hours", lambda e: e.device_hours_to_target, _four, False),
    ("Data wait", "mean share of a step spent waiting for images", lambda e: e.data_wait_share, percent, False),
    ("Restarts", "attempts after the first", lambda e: e.restarts, count, None),
    ("Lost time", "time lost to restarts", lambda e: e.lost_seconds, duration, False),
    ("Redone steps", "steps done twice, as no checkpoint held them", lambda e: e.redone_steps, count, False),
    ("Peak memory (GB)", "of one rank", lambda e: e.peak_memory_gb, _four, False),
)


def cost_table(comparison: Comparison) -> Table:
    """What each run cost and how fast it was, with the devices it used."""
    known = {run.name: run for run in comparison.runs}
    columns = [Column("Devices", help="of the last attempt")]
    cells = [[Cell(_devices(known.get(row.name))) for row in comparison.rows]]
    for title, meaning, get, text, more in COSTS:
        columns.append(Column(title, help=meaning))
        values = [get(row.efficiency) for row in comparison.rows]
        best = _best(itertools.compress(values, _comparable(comparison)), more)
        marks = [competes and value == best for value, competes in zip(values, _comparable(comparison), strict=True)]
        cells.append(
            [Cell(text(value), value, best is not None and mark) for value, mark in zip(values, marks, strict=True)]
        )
    return Table(columns, _lines(comparison, cells))


def _best(values: Iterable[float | None], more: bool | None) -> float | None:
    """The best of several values; None where there is nothing to choose, or neither more nor less is better."""
    finite = {value for value in values if value is not None and math.isfinite(value)}
    return None if more is None or len(finite) < 2 else max(finite) if more else min(finite)


def _comparable(comparison: Comparison) -> list[bool]:
    """Which runs compete for the best: a run that was stopped early costs little, and is no better for it."""
    finished = [row.outcome == "finished" for row in comparison.rows]
    return finished if any(finished) else [True] * len(finished)


def _devices(run: RunData | None) -> str:
    if run is None or not run.attempts:
        return DASH
    return f"{run.attempts[-1].processes} × {run.facts.device or 'unknown'}"


def _lines(comparison: Comparison, cells: list[list[Cell]]) -> list[Line]:
    looks = looks_of(comparison)
    order = {comparison.runs[n].name: place for place, n in enumerate(in_order(comparison))}
    lines = [
        Line(row.name, looks[row.name], row.outcome, [column[n] for column in cells])
        for n, row in enumerate(comparison.rows)
    ]
    return sorted(lines, key=lambda line: order[line.name])
