"""What LayerScale does to a deep network: how evenly layers contribute, with it and without, over seeds.

    python benchmarks/residual_profile.py --seeds 0 1 2

The figure by which the paper (arXiv 2103.17239, section 2) shows what LayerScale is for, in small: ‖branch‖ over ‖what
it is added to‖ for each layer, as `cait analyse residual-norms` measures it, of `layer_scale` and `pre_norm` networks
at the end of their training in benchmarks/stability.py. Runs that are there are read, others are trained.

    mean      over the layers, of the mean over tokens and images
    spread    standard deviation over the layers (n - 1), over that mean: 0 is a flat profile
    max/min   largest layer over smallest
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cait_dist.analysis import subject_of_run
from cait_dist.analysis.drawing import COLOURS, new_figure, save, style
from cait_dist.analysis.images import choose_images, in_batches
from cait_dist.analysis.residual_norms import BRANCHES, measure_ratios
from cait_dist.training.saving.saved_weights import open_weights
from parts.stability.runs import Member, Place, StabilityError, chance_loss, members
from stability import about, add_place, train_all, write_record

VARIANTS = ("pre_norm", "layer_scale")
MEASURES = ("mean", "spread", "max_over_min")


def main() -> None:
    """Train what is missing, measure, print."""
    options = _options()
    place = Place(options.runs.resolve(), options.data.resolve(), options.steps)
    wanted = list(members(["recipe"], options.depths, VARIANTS, options.seeds))
    try:
        trained = train_all(wanted, place, chance_loss(place))
    except StabilityError as error:
        print(f"residual profile: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    rows = [row for member in wanted for row in profiles(member, place, options.images)]
    losses = [{key: row[key] for key in ("depth", "residual", "seed", "loss_end", "top1")} for row in trained]
    record = {**about(place, wanted), "images": options.images, "trained": losses, "rows": rows}
    del record["curve"]
    print(f"\n{table(rows)}")
    if options.out:
        write_record(record, options.out)
        print(f"wrote {options.out}")
    if options.figure:
        print(f"wrote {draw(rows, options.figure)}")


def profiles(member: Member, place: Place, count: int) -> list[dict[str, Any]]:
    """Both branches of a trained network, layer by layer.

    Args:
        member: whose newest checkpoint is looked at
        place: of the runs
        count: most images, of the evaluation set
    """
    subject = subject_of_run(*open_weights(place.run(member).path, None, "raw"))
    device = torch.device("cpu")
    model = subject.model(device)
    images = choose_images(subject, [], count, model.arch.image_size)
    ratios = measure_ratios(model, in_batches(images, subject, 64, device))
    return [_row(member, branch, [r.mean for r in ratios if r.branch == branch]) for branch in BRANCHES]


def _row(member: Member, branch: str, layers: list[float]) -> dict[str, Any]:
    mean = statistics.fmean(layers)
    return {
        "depth": member.depth,
        "residual": member.residual,
        "seed": member.seed,
        "branch": branch,
        "mean": round(mean, 5),
        "spread": round(statistics.stdev(layers) / mean, 4),
        "max_over_min": round(max(layers) / min(layers), 3),
        "layers": [round(layer, 5) for layer in layers],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with their standard deviations, as Markdown."""
    seeds = len({row["seed"] for row in rows})
    lines = [
        f"‖branch‖ / ‖main branch‖ by layer; mean ± standard deviation over {seeds} seeds.",
        "",
        "| depth | branch       | residual    | mean            | spread        | max/min       |",
        "|-------|--------------|-------------|-----------------|---------------|---------------|",
    ]
    cells = dict.fromkeys((row["depth"], row["branch"], row["residual"]) for row in rows)
    for depth, branch, residual in sorted(cells, key=lambda cell: (cell[0], cell[1])):
        mine = [r for r in rows if (r["depth"], r["branch"], r["residual"]) == (depth, branch, residual)]
        mean, spread, most = (_over_seeds([row[key] for row in mine], key) for key in MEASURES)
        lines.append(f"| {depth:<5} | {branch:<12} | {residual:<11} | {mean:<15} | {spread:<13} | {most:<13} |")
    return "\n".join(lines)


def _over_seeds(values: list[float], key: str) -> str:
    digits = {"mean": 4, "spread": 2, "max_over_min": 1}[key]
    around = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{around}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """A panel for each depth and branch, a line for each network."""
    depths = list(dict.fromkeys(row["depth"] for row in rows))
    colours = dict(zip(VARIANTS, reversed(COLOURS.values()), strict=True))
    with style():
        figure = new_figure(7.2, 2.1 * len(depths) + 0.4)
        panels = figure.subplots(len(depths), len(BRANCHES), sharey="row", squeeze=False)
        for (number, depth), (column, branch) in (
            (band, place) for band in enumerate(depths) for place in enumerate(BRANCHES)
        ):
            axes = panels[number, column]
            for row in rows:
                if (row["depth"], row["branch"]) == (depth, branch):
                    layers = range(1, depth + 1)
                    axes.plot(layers, row["layers"], color=colours[row["residual"]], linewidth=1.2, alpha=0.85)
            axes.set_yscale("log")
            axes.set_title(f"{depth} layers, {branch}")
            axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
        for axes in panels[:, 0]:
            axes.set_ylabel("‖branch‖ / ‖main branch‖")
        for axes in panels[-1]:
            axes.set_xlabel("layer")
        lines = [axes.plot([], [], color=colours[name], label=name)[0] for name in VARIANTS]
        figure.legend(handles=lines, loc="outside lower center", ncols=2)
        return save(figure, path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_place(parser)
    parser.add_argument("--images", type=int, metavar="N", default=128, help="of the evaluation set; default: 128")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="SVG (or PNG) file for the profiles")
    return parser.parse_args()


if __name__ == "__main__":
    main()
