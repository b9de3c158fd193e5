"""The comparison of loaders as a picture: one panel per image size, one bar per pipeline."""

from __future__ import annotations

import io
from typing import Any

# Colours that stand out from white and from black alike; the background is left open.
_INK, _OURS, _OTHERS, _REACH = "#808890", "#3b82f6", "#a9b2bc", "#5b6570"
_ON_BAR = "#111827"


def draw(rows: list[dict[str, Any]], hardware: str) -> str:
    """The picture as SVG, from the rows of ``loaders.json``."""
    import matplotlib as mpl  # noqa: PLC0415 - takes seconds to load
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    sizes = sorted({row["size"] for row in rows})
    colours: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    )
    with mpl.rc_context({**colours, "font.size": 9, "svg.hashsalt": "loaders", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            _panel(axes, [row for row in rows if row["size"] == size], f"{size} × {size} pixels")
        panels[0].invert_yaxis()  # of all panels, as they share it: the first row on top
        figure.supxlabel(f"training images per CPU-second: median, least and most ({hardware})", fontsize=9)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _panel(axes: Any, rows: list[dict[str, Any]], title: str) -> None:
    medians = [row["median"] for row in rows]
    reach = [
        [median - min(row["images_per_cpu_second"]) for median, row in zip(medians, rows, strict=True)],
        [max(row["images_per_cpu_second"]) - median for median, row in zip(medians, rows, strict=True)],
    ]
    bars = axes.barh([row["title"] for row in rows], medians, xerr=reach, color=_OTHERS, ecolor=_REACH, height=0.7)
    for bar, row in zip(bars, rows, strict=True):
        bar.set(facecolor="none" if row["floor"] else _OURS if row["ours"] else _OTHERS)
        bar.set(edgecolor=_INK if row["floor"] else "none", linestyle="--" if row["floor"] else "-")
        axes.annotate(
            f"{row['median']:.0f}",
            (0, bar.get_y() + bar.get_height() / 2),
            (4, 0),
            va="center",
            textcoords="offset points",
            color=_INK if row["floor"] else _ON_BAR,
            weight="bold",
        )
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.03)
