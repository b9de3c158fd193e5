"""The plan as a picture: where the memory of a GPU goes in each way of running, and where the time of a step goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..options import Option
from ..run_plan import RunPlan

_GB = 1e9


def memory_parts(option: Option) -> dict[str, float]:
    """GB at the peak of an option, from the bottom up."""
    state, images = option.state, option.images
    kept = activations = 0.0
    if images:
        activations = option.activations.peak(images)
        kept = min(activations, option.activations.kept(images))
    beside = state.beside_activations
    return {
        "weights": (state.parameters + state.master) / _GB,
        "moments": state.moments / _GB,
        "moving average": state.average / _GB,
        "gradients, buckets, gathered": (beside + state.steady - _always(option)) / _GB,
        "kept activations": kept / _GB,
        "needed once": (activations - kept) / _GB,
        "more for the update": max(0.0, state.for_update - beside - activations) / _GB,
    }


def time_parts(option: Option) -> dict[str, float]:
    """Milliseconds of a step, from the bottom up; without calibration the two bounds side by side."""
    if option.time is None:
        return {"least": 1e3 * option.step_seconds, "network, at least": 1e3 * option.network_seconds}
    return {name: 1e3 * seconds for name, seconds in vars(option.time).items()}


def draw_plan(plan: RunPlan, path: Path) -> None:
    """Draw and save; the ending of the name decides the kind of file."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who wants a picture loads it

    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    options = [option for option in plan.options if option.fits]
    names = [f"{option.policy}, {option.stage}\n{option.images} images" for option in options]
    _stack(left, names, [memory_parts(option) for option in options])
    left.axvline(plan.situation.budget / _GB, color="0.3", linestyle="--", linewidth=1)
    left.set_xlabel("GB of a GPU; dashed: what may be planned with")
    left.set_title("memory at the peak: policy, ZeRO stage, micro-batch", fontsize=10)
    _stack(right, names, [time_parts(option) for option in options], together=plan.calibrated)
    right.set_xlabel("milliseconds of a step" + ("" if plan.calibrated else ", at least: bounds, not predictions"))
    right.set_title(f"time of a step on {plan.request.gpus} × {plan.request.gpu.title}", fontsize=10)
    figure.savefig(path)


def _stack(axes: Any, names: list[str], bars: list[dict[str, float]], *, together: bool = True) -> None:
    """Bars of parts, one on top of the other, or each from zero."""
    places = list(range(len(names)))
    begin = [0.0] * len(names)
    for part in bars[0]:
        sizes = [bar[part] for bar in bars]
        axes.barh(places, sizes, left=begin if together else None, height=0.7 if together else 0.4, label=part)
        begin = [start + size for start, size in zip(begin, sizes, strict=True)]
    axes.set_yticks(places, names, fontsize=6)
    axes.invert_yaxis()
    axes.legend(fontsize=7, ncol=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _always(option: Option) -> int:
    state = option.state
    return state.parameters + state.master + state.moments + state.average
