"""The picture of a run: loss and accuracy over epochs, from its metrics file."""

from pathlib import Path

from .metrics import Row, read_metrics, series
from .run_directory import RunDirectory


def draw_curves(run: RunDirectory, out: Path | None = None) -> Path:
    """Draw training loss, and loss and top-1 of every evaluation set, as SVG.

    Args:
        run: with at least one recorded step
        out: file to write; default: ``curves.svg`` in the run directory

    Returns:
        the file written
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes seconds to load
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = read_metrics(run)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*_over_epochs(rows, "train/loss"), color="#b8c4d6", linewidth=0.8, label="train/loss")
    for key in _keys_ending(rows, "/loss"):
        left.plot(*_over_epochs(rows, key), marker=".", label=key)
    for key in _keys_ending(rows, "/top1"):
        right.plot(*_over_epochs(rows, key), marker=".", label=key)
    for axes, title in ((left, "cross-entropy"), (right, "top-1 in percent")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    target = out or run.path / "curves.svg"
    # Without a fixed salt and date the same run would give another file each time.
    with mpl.rc_context({"svg.hashsalt": "cait", "svg.fonttype": "path"}):
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
    return target


def _over_epochs(rows: list[Row], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a metric. Only training lines tell their epoch, but it is proportional to the step."""
    epochs_per_step = next((row["train/epoch"] / row["step"] for row in rows if "train/epoch" in row), 1.0)
    points = series(rows, key)
    return [step * epochs_per_step for step, _ in points], [value for _, value in points]


def _keys_ending(rows: list[Row], suffix: str) -> list[str]:
    keys = {key: None for row in rows for key in row if key.endswith(suffix) and not key.startswith("train/")}
    return list(keys)
