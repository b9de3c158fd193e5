"""What all pictures have in common: the look, the axis of layers, and files that come out the same each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"attention": "#2463b4", "feed-forward": "#d9622b"}
"""Blue and orange stay apart for colour-blind eyes, and in grey."""
CLASS_LABELS = 13
"""So many labels of class-attention layers would fill the axis; deep networks leave each that room."""


@contextmanager
def style() -> Iterator[None]:
    """Within this context pictures have the project's look."""
    import matplotlib as mpl  # noqa: PLC0415 - takes seconds to load

    inked = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "axes.titlecolor")
    settings: dict[Any, Any] = {
        **dict.fromkeys(inked, INK),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT),
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        # Without a fixed salt the same values would give another file each time.
        "svg.hashsalt": "cait",
        "svg.fonttype": "path",
        "image.composite_image": False,
    }
    with mpl.rc_context(settings):
        yield


def new_figure(width: float, height: float, air: float | None = None) -> Figure:
    """An empty picture; `style` must be in force.

    Args:
        width: in inches
        height: in inches
        air: around each panel, in inches; None for the usual
    """
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    pads: dict[str, Any] = {} if air is None else {"h_pad": air, "w_pad": air, "hspace": 0.0, "wspace": 0.0}
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(**pads))


def save(figure: Figure, path: Path) -> Path:
    """Write a picture as SVG or PNG, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415

        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

        FigureCanvasAgg(figure).print_png(path)
    return path


def place_of(stage: str, layer: int, depth: int) -> float:
    """Where a layer stands on the axis of layers: class attention apart, in steps that leave room for its labels."""
    return layer if stage == "self-attention" else depth + (layer + 0.4) * _stride(depth)


def _stride(depth: int) -> float:
    return max(1.0, depth / CLASS_LABELS)


def label_layers(axes: Axes, depths: tuple[int, int]) -> None:
    """Ticks on the axis of layers: some numbers for self-attention, each class-attention layer by name."""
    depth, class_depth = depths
    every = next(step for step in (1, 2, 3, 4, 6, 8, 12, 24, depth) if depth / step <= 12)
    ticks: dict[float, str] = {1: "1", **{n: str(n) for n in range(every, depth + 1, every)}}
    if every > 1 and 1 in ticks and every == 2:
        ticks.pop(1)
    ticks |= {place_of("class-attention", n, depth): f"CA{n}" for n in range(1, class_depth + 1)}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(
        0.4, place_of("class-attention", class_depth, depth) + 0.6 * _stride(depth) if class_depth else depth + 0.6
    )
    axes.set_xlabel("layer" + (" (CA: class attention)" if class_depth else ""))
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)


def draw_by_layer(axes: Axes, series: Mapping[str, list[dict[str, Any]]], depth: int) -> None:
    """A line with a band for each branch, broken between the stages.

    Args:
        axes: where
        series: by branch, its layers: ``stage``, ``layer``, ``mean``, ``low``, ``high``
        depth: number of self-attention layers
    """
    for branch, layers in series.items():
        colour, shift = COLOURS[branch], _stride(depth) * (-0.1 if branch == "attention" else 0.1)
        for stage in ("self-attention", "class-attention"):
            part = [layer for layer in layers if layer["stage"] == stage]
            if not part:
                continue
            places = [place_of(stage, layer["layer"], depth) for layer in part]
            low, mean, high = ([layer[key] for layer in part] for key in ("low", "mean", "high"))
            label = branch if stage == "self-attention" else None
            if stage == "self-attention":
                axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(places, mean, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=label)
            else:
                places = [place + shift for place in places]
                axes.vlines(places, low, high, color=colour, alpha=0.3, linewidth=4)
                axes.plot(places, mean, color=colour, marker="D", markersize=4, linestyle="none")


def choose_scale(axes: Axes, values: list[float]) -> None:
    """Logarithmic where values differ by more than an order of magnitude and none is zero, else linear from zero."""
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
