"""The curves of the stability table: a panel for each residual design, a line for each depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cait_dist.analysis.drawing import COLOURS, FAINT, INK, new_figure, save, style

COLUMNS = 5
_ALARM = "#b3261e"
LARGE = 100
"""A loss like this is written with its power of ten."""
_HEADROOM = 1.25
_DASHES = (0, (4, 3))
_DEPTH_COLOURS = (*COLOURS.values(), "#5b8c5a", "#7a4fa3")


def draw(record: dict[str, Any], path: Path) -> Path:
    """Write the picture, as SVG or PNG by the file's suffix.

    Args:
        record: as `stability.json` holds it
        path: of the file
    """
    rows = record["rows"]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    variants = list(dict.fromkeys(row["residual"] for row in rows))
    depths = list(dict.fromkeys(row["depth"] for row in rows))
    columns = min(COLUMNS, len(variants))
    bands = -(-len(variants) // columns)
    with style():
        figure = new_figure(1.85 * columns + 0.5, (1.55 * bands + 0.25) * len(settings) + 0.45)
        parts = figure.subfigures(len(settings) + 1, 1, height_ratios=[*[1] * len(settings), 0.09], squeeze=False)
        for part, setting in zip(parts[:-1, 0], settings, strict=True):
            part.suptitle(_title(record, setting), fontsize=9, weight="bold", x=0.01, ha="left")
            here = [v for v in variants if any((r["setting"], r["residual"]) == (setting, v) for r in rows)]
            panels = part.subplots(bands, columns, sharex=True, sharey=True, squeeze=False)
            for number, axes in enumerate(panels.ravel()):
                variant = here[number] if number < len(here) else None
                mine = [r for r in rows if (r["setting"], r["residual"]) == (setting, variant)]
                if not mine:
                    axes.set_visible(False)
                    continue
                _panel(axes, mine, depths, record)
                axes.set_title(str(variant), pad=3)
            for axes in panels[:, 0]:
                axes.set_ylabel("loss")
            for axes in panels[-1]:
                axes.set_xlabel("step")
        lines = [panels[0, 0].plot([], [], color=_colour(depths, d), label=f"{d} layers")[0] for d in depths]
        lines += panels[0, 0].plot([], [], color=FAINT, linestyle=_DASHES, label="chance")
        parts[-1, 0].legend(handles=lines, loc="center", ncols=len(lines))
        return save(figure, path)


def _panel(axes: Any, rows: Sequence[dict[str, Any]], depths: Sequence[int], record: dict[str, Any]) -> None:
    chance, losses = record["chance"], [x for row in record["rows"] for x in row["curve"] if x is not None]
    axes.axhline(chance, color=FAINT, linewidth=1, linestyle=_DASHES)
    axes.set_ylim(math.floor(2 * min(losses)) / 2, _HEADROOM * chance)
    for row in rows:
        _line(axes, row, _colour(depths, row["depth"]))
    ends = {(depths.index(row["depth"]), row["verdict"]): _end(row) for row in rows}
    for (place, verdict), word in ends.items():
        height = 0.05 + 0.12 * (len(depths) - 1 - place)
        colour = INK if verdict == "trains" else _ALARM
        axes.annotate(word, (0.04, height), xycoords="axes fraction", fontsize=7, color=colour)


def _end(row: dict[str, Any]) -> str:
    end = row["loss_end"]
    shown = "not finite" if end is None else f"{end:.2f}" if end < LARGE else f"{end:.0e}"
    return f"{row['depth']}: {row['verdict']}, {shown}"


def _line(axes: Any, row: dict[str, Any], colour: str) -> None:
    every = row["steps"] / len(row["curve"])
    points = [((n + 0.5) * every, loss) for n, loss in enumerate(row["curve"]) if loss is not None]
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.3)
    if len(points) < len(row["curve"]):
        axes.plot(*points[-1], marker="x", color=colour, markersize=6, clip_on=False)
    top = axes.get_ylim()[1]
    if points[-1][1] > top:
        gone = next(step for n, (step, _) in enumerate(points) if min(loss for _, loss in points[n:]) > top)
        axes.plot(gone, 0.96 * top, marker="^", color=colour, markersize=5)


def _colour(depths: Sequence[int], depth: int) -> str:
    return _DEPTH_COLOURS[depths.index(depth) % len(_DEPTH_COLOURS)]


def _title(record: dict[str, Any], setting: str) -> str:
    changes = ", ".join(record["settings"][setting])
    return f"{setting}: {changes}" if changes else f"{setting} of the configuration"
