"""The comparison with peers as a picture: a panel per measurement, a bar per contender, in multiples of timm's."""

from __future__ import annotations

import io
from typing import Any

# Colours that stand out from white and from black alike; the background is left open.
_INK, _OURS, _OTHERS, _ON_BAR = "#808890", "#3b82f6", "#a9b2bc", "#111827"
_ROW, _HEAD = 0.21, 0.55
"""Height in inches of a bar and of what surrounds a panel."""


def draw(results: list[dict[str, Any]], hardware: str) -> str:
    """The picture as SVG, from the results in the JSON of ``peers.py``."""
    import matplotlib as mpl  # noqa: PLC0415 - takes seconds to load
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    panels = _panels(results)
    heights = [_HEAD + _ROW * len(rows) for rows in panels.values()]
    colours: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    )
    with mpl.rc_context({**colours, "font.size": 9, "svg.hashsalt": "peers", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, sum(heights) + 0.4), layout="constrained")
        FigureCanvasSVG(figure)
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
        for axes, (title, rows) in zip(grid[:, 0], panels.items(), strict=True):
            _panel(axes, title, rows)
        figure.supxlabel(hardware, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _panels(results: list[dict[str, Any]]) -> dict[str, list[tuple[str, float, str]]]:
    """Rows (contender, length of the bar, its label) by the title of their panel; who failed has no bar."""
    panels: dict[str, list[tuple[str, float, str]]] = {}
    for row in results:
        value, label, unit = _value(row)
        rows = panels.setdefault(f"{row['what']}, {row['precision']}: {unit}", [])
        rows.append((row["contender"], value, label))
    return panels


def _value(row: dict[str, Any]) -> tuple[float, str, str]:
    faster = next((key for key in row if key.startswith("times_faster_than_")), None)
    if row["measurement"] == "memory":
        value, unit = row.get("share_of_timm"), "share of timm's (less is better)"
    elif row["measurement"] == "largest-batch":
        value, unit = row.get("images_per_second"), "images per second at best (more is better)"
    else:
        base = (faster or "").removeprefix("times_faster_than_")
        value, unit = row.get(faster or ""), f"times as fast as {base} (more is better)"
    return (value, f"{value:.2f}", unit) if value else (0.0, "failed", unit)


def _panel(axes: Any, title: str, rows: list[tuple[str, float, str]]) -> None:
    names = [name for name, _, _ in rows]
    bars = axes.barh(names, [value for _, value, _ in rows], height=0.75)
    for bar, (name, value, label) in zip(bars, rows, strict=True):
        bar.set_facecolor(_OURS if name.startswith("ours") else _OTHERS)
        middle = bar.get_y() + bar.get_height() / 2
        ink = _ON_BAR if value else _INK
        axes.annotate(label, (0, middle), (4, 0), va="center", textcoords="offset points", color=ink, weight="bold")
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
