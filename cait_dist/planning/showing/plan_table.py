"""The plan on the terminal, on one screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..counting.step_flops import step_flops
from ..options import STAGES, Option
from ..run_plan import RunPlan
from .advice import advice, basis, warnings

_GB = 1e9


def print_plan(plan: RunPlan, console: Console | None = None) -> None:
    """Print everything that fits on a screen; the rest is in the JSON."""
    parts = (_head(plan), _state_table(plan), _fit_table(plan), _run_text(plan), _scaling_table(plan), _words(plan))
    (console or Console()).print(Group(*parts), soft_wrap=True)


def _head(plan: RunPlan) -> Text:
    arch, training = plan.situation.arch, plan.situation.config.training
    macs, params = plan.macs, plan.params
    kept = f", dropped paths leave {1 - arch.drop_path_rate:.0%} of the blocks' work" if arch.drop_path_rate else ""
    return Text(
        f"{plan.situation.config.model.name} at {arch.image_size} px, {arch.num_classes} classes, {training.precision},"
        f" attention {plan.situation.backend}, on {plan.request.gpus} × {plan.situation.gpu.title}\n"
        f"parameters {params.total / 1e6:,.2f} M: embeddings {params.embeddings / 1e6:.2f},"
        f" blocks {params.blocks / 1e6:.2f}, class attention {params.class_attention / 1e6:.2f},"
        f" head {params.head / 1e6:.2f}\n"
        f"multiply-adds {macs.total / 1e9:,.2f} G an image: linear layers {macs.linears / 1e9:.2f}, q kᵀ and A v"
        f" {macs.attention / 1e9:.2f}, head mixing {macs.head_mixing / 1e9:.2f}, class attention"
        f" {macs.class_attention / 1e9:.2f}, ends {(macs.patch_embed + macs.head) / 1e9:.2f}\n"
        f"a step takes {step_flops(arch, plan.recommended.policy) / 1e12:,.3f} TFLOP an image{kept}"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _state_table(plan: RunPlan) -> Table:
    table = _table(
        "GB on a GPU besides activations; what a GPU sends in a step, and how long that takes at least",
        *("stage", "weights", "master", "moments", "average", "steady", "+activ.", "+update", "sends", "ms"),
    )
    for option in _of_policy(plan, plan.recommended.policy):
        state = option.state
        sizes = (state.parameters, state.master, state.moments, state.average, state.steady)
        more = (state.beside_activations, state.for_update, option.traffic.total)
        cells = [f"{size / _GB:.2f}" for size in (*sizes, *more)]
        table.add_row(str(state.stage), *cells, f"{1e3 * option.network_seconds:.1f}")
    return table


def _fit_table(plan: RunPlan) -> Table:
    table = _table(
        f"largest micro-batch that fits {plan.situation.budget / _GB:.1f} GB, by recomputation and ZeRO stage",
        *("policy", "MB kept/image", "MB once", "FLOP", *(f"stage {stage}" for stage in STAGES)),
    )
    arch = plan.situation.arch
    for policy in dict.fromkeys(option.policy for option in plan.options):
        options = _of_policy(plan, policy)
        activations = next(o for o in options if o.stage == plan.recommended.stage).activations
        once = activations.peak(1) - activations.kept(1)
        table.add_row(
            policy,
            f"{activations.kept_per_image / 1e6:,.1f}",
            f"{max(0.0, once) / 1e6:,.1f}",
            f"+{step_flops(arch, policy) / step_flops(arch, 'none') - 1:.0%}",
            *(_fit_cell(option) for option in options),
        )
    return table


def _fit_cell(option: Option) -> str:
    return f"{option.most_images:,}" if option.most_images else "–"


def _run_text(plan: RunPlan) -> Text:
    duration, best = plan.duration, plan.recommended
    at_most, at_least = ("", "") if plan.calibrated else ("at most ", "at least ")
    label = "predicted" if plan.calibrated else "bound"
    line = (
        f"{label}: {at_most}{duration.images_per_second:,.0f} images/s,"
        f" {at_least}{1e3 * best.step_seconds:,.1f} ms a step"
    )
    if duration.hours is None:
        return Text(f"{line}; how long the run takes needs the data, or --images\n")
    line += f"; {duration.steps:,} steps, {at_least}{duration.hours:,.1f} h and {duration.gpu_hours:,.1f} GPU-hours"
    if duration.cost is not None:
        line += f", costing {at_least}{duration.cost:,.2f}"
    return Text(f"{line}\n")


def _scaling_table(plan: RunPlan) -> Table:
    label = "" if plan.calibrated else " at most"
    table = _table(f"the same global batch on other numbers of GPUs: images/s{label}", "GPUs")
    runnable = [point for point in plan.scaling if point.images_per_second is not None]
    for point in runnable:
        table.add_column(f"{point.gpus:,}", justify="right")
    table.add_row("images/s", *(_short(point.images_per_second or 0) for point in runnable))
    table.add_row("efficiency", *(f"{point.efficiency:.0%}" for point in runnable))
    table.add_row("network", *(f"{point.network_share:.0%}" for point in runnable))
    if left_out := [point for point in plan.scaling if point.note]:
        notes = dict.fromkeys(point.note for point in left_out)
        gpus = {note: ", ".join(f"{point.gpus:,}" for point in left_out if point.note == note) for note in notes}
        table.caption = "; ".join(f"{numbers}: {note}" for note, numbers in gpus.items())
        table.caption_justify = "left"
    return table


def _short(number: float) -> str:
    return f"{number:,.0f}" if number < 10_000 else f"{number / 1e3:,.0f}k"


def _words(plan: RunPlan) -> Text:
    return Text("\n".join(_lines(plan)))


def _lines(plan: RunPlan) -> Iterator[str]:
    yield basis(plan)
    yield from advice(plan)
    for warning in warnings(plan):
        yield f"warning: {warning}"


def _of_policy(plan: RunPlan, policy: str) -> list[Option]:
    return [option for option in plan.options if option.policy == policy]
