"""The pictures, from measured values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from .drawing import FAINT, choose_scale, draw_by_layer, label_layers, new_figure, save, style
from .images import Shown
from .residual_norms import BRANCHES, BranchRatio
from .subject import Subject
from .weights_of_layers import BranchScale, Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LAYERS_IN_A_ROW, MOST_MAPS_IN_A_ROW = 12, 12


def residual_norms(ratios: Sequence[BranchRatio], subject: Subject, images: int, path: Path) -> Path:
    """A line per branch over the layers, with a band that holds 80 % of tokens and images."""
    series = {
        branch: [
            {"stage": r.stage, "layer": r.layer, "mean": r.mean, "low": r.quantiles[0], "high": r.quantiles[2]}
            for r in ratios
            if r.branch == branch
        ]
        for branch in BRANCHES
    }
    with style():
        figure = new_figure(6.4, 3.1)
        axes = figure.subplots()
        draw_by_layer(axes, series, subject.depths[0])
        choose_scale(
            axes, [value for r in ratios for value in (r.quantiles[0], r.mean)] + [r.quantiles[2] for r in ratios]
        )
        label_layers(axes, subject.depths)
        axes.set_ylabel("‖branch‖ / ‖main branch‖")
        axes.set_title(f"{_plain(subject.title)}, {images} images; bands hold 80 % of the tokens")
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, path)


def layer_scale(scales: Sequence[BranchScale], subject: Subject, path: Path) -> Path:
    """Mean of |γ| per layer and branch, with a band that holds 90 % of the channels."""
    series = {
        branch: [
            {"stage": s.stage, "layer": s.layer, "mean": s.mean, "low": s.quantiles[0], "high": s.quantiles[-1]}
            for s in scales
            if s.branch == branch
        ]
        for branch in BRANCHES
    }
    started = subject.scale_start
    with style():
        figure = new_figure(6.4, 3.1)
        axes = figure.subplots()
        draw_by_layer(axes, series, subject.depths[0])
        if started is not None:
            axes.axhline(started, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"start, {started:g}")
        choose_scale(axes, [s.quantiles[0] for s in scales] + [s.quantiles[-1] for s in scales])
        label_layers(axes, subject.depths)
        axes.set_ylabel("|γ| of LayerScale")
        axes.set_title(f"{_plain(subject.title)}; bands hold 90 % of the channels")
        figure.legend(loc="outside lower center", ncols=3)
        return save(figure, path)


def head_mixing(matrices: Sequence[tuple[Matrix, Matrix]], subject: Subject, path: Path) -> Path:
    """Two matrices per layer, before the softmax above and after it below, all on one scale."""
    columns = min(len(matrices), MOST_LAYERS_IN_A_ROW)
    bands = -(-len(matrices) // columns)
    reach = max(float(np.abs(matrix).max()) for pair in matrices for matrix in pair)
    cell = 0.7 if columns > 6 else 1.1
    with style():
        figure = new_figure(cell * columns + 1.3, (2 * cell + 0.3) * bands + 0.4, air=0.02)
        grid = figure.subplots(2 * bands, columns, squeeze=False)
        for place in range(bands * columns):
            band, column = divmod(place, columns)
            for which, name in enumerate(("before\nsoftmax", "after\nsoftmax")):
                axes = grid[2 * band + which, column]
                _bare(axes)
                if place >= len(matrices):
                    axes.set_visible(False)
                    continue
                shown = _matrix(axes, matrices[place][which], reach)
                if which == 0:
                    axes.set_title(f"{place + 1}", loc="center", pad=3)
                if column == 0:
                    axes.set_ylabel(name, fontsize=7)
        bar = figure.colorbar(shown, ax=grid.ravel().tolist(), shrink=min(1.0, 1 / bands + 0.1), aspect=22, pad=0.015)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7)
        _headline(figure, f"{_plain(subject.title)}: weights from head (column) to head (row), by layer")
        return save(figure, path)


def _matrix(axes: Axes, matrix: Matrix, reach: float) -> Any:
    # A pixel per cell, which SVG enlarges without smoothing: as vectors, those of M48 would take megabytes.
    return axes.imshow(matrix, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="none")


def attention_maps(
    images: Sequence[Shown], maps: Tensor, own: Tensor, predicted: Sequence[int], subject: Subject, path: Path
) -> Path:
    """A sheet: the image, then a map per layer and head laid over it; layers side by side where there is room.

    Args:
        images: as they were shown
        maps: (images, layers, heads, grid, grid)
        own: (images, layers, heads), what the class token keeps to itself
        predicted: most likely class of each image
        subject: the model
        path: of the PNG
    """
    layers, heads = maps.shape[1:3]
    beside = layers * heads <= MOST_MAPS_IN_A_ROW
    rows, side = len(images) * (1 if beside else layers), images[0].pixels.shape[-1]
    large = F.interpolate(maps.flatten(1, 2), size=(side, side), mode="bicubic", align_corners=False)
    large = large.clamp_min(0).unflatten(1, (layers, heads))
    # A column of air before each layer.
    widths = [1.0, *([0.12, *[1.0] * heads] * (layers if beside else 1))]
    cell = 0.95
    with style():
        figure = new_figure(cell * sum(widths) + 0.1, (cell + 0.13) * rows + 0.45, air=0.025)
        grid = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
        for axes in grid.ravel():
            axes.set_axis_off()
        for number, image in enumerate(images):
            picture = image.pixels.permute(1, 2, 0).numpy()
            first = number if beside else number * layers
            grid[first, 0].imshow(picture)
            _label(grid[first, 0], f"{_short(image.name)} → {predicted[number]}")
            for layer, head in np.ndindex(layers, heads):
                row, column = (first, 2 + layer * (heads + 1) + head) if beside else (first + layer, 2 + head)
                axes = grid[row, column]
                axes.imshow(_overlay(picture, large[number, layer, head].numpy()))
                caption = (
                    f"max {float(maps[number, layer, head].max()):.2f} · self {float(own[number, layer, head]):.2f}"
                )
                _label(axes, caption if number else f"layer {layer + 1}, head {head + 1}\n{caption}")
        _headline(figure, f"{_plain(subject.title)}: attention of the class token over the patches")
        figure.dpi = 150
        return save(figure, path)


def _overlay(picture: npt.NDArray[np.uint8], attention: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The map in colour with the image in grey shining through; the colours do not depend on the image."""
    from matplotlib import colormaps  # noqa: PLC0415

    strength = attention / max(float(attention.max()), 1e-12)
    grey = picture.mean(axis=2, keepdims=True) / 255
    return np.asarray(0.3 * grey + 0.7 * colormaps["inferno"](strength)[..., :3])


def _label(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=6, pad=2, loc="center")


def _headline(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=9, x=0.01, ha="left")


def _short(name: str, most: int = 18) -> str:
    return _plain(name if len(name) <= most else f"{name[: most - 1]}…")


def _plain(text: str) -> str:
    # Between dollars matplotlib would read a formula.
    return text.replace("$", r"\$")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
