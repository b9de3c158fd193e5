"""The plan in sentences: what is recommended and why, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..counting.numerics import numerics
from ..options import Option
from ..run_plan import RunPlan

_NETWORK_MATTERS = 0.1
_NOTICEABLE = 0.05
"""GB"""


def advice(plan: RunPlan) -> list[str]:
    """What to do, and why."""
    return [*_recommendation(plan), *_reasons(plan)]


def warnings(plan: RunPlan) -> list[str]:
    """What stands in the way."""
    return [*_configured(plan), *_loader(plan), *_network(plan), *_not_modelled(plan)]


def basis(plan: RunPlan) -> str:
    """Where times come from."""
    calibration, gpu = plan.situation.calibration, plan.situation.gpu
    if calibration is not None:
        return f"Times are predictions from rates measured on {calibration.hardware}, {calibration.date}."
    peak = gpu.peak(plan.situation.config.training.precision) / 1e12
    return (
        f"There is no calibration for {gpu.title}, so times are bounds and no predictions: its datasheet peak of"
        f" {peak:,.0f} TFLOP/s, which nothing reaches, and the network at full speed. Run `cait bench step` on it."
    )


def _recommendation(plan: RunPlan) -> Iterator[str]:
    best = plan.recommended
    again = "without recomputing activations" if best.policy == "none" else f"recomputing by policy {best.policy}"
    yield (
        f"Run at ZeRO stage {best.stage}, {again}, with micro-batches of {best.images}"
        f" ({best.accumulation} per step and GPU): training.zero.stage={best.stage}"
        f" training.activation_checkpointing={best.policy} training.micro_batch_limit={best.images}."
    )


def _reasons(plan: RunPlan) -> Iterator[str]:
    best, budget = plan.recommended, plan.situation.budget
    yield (
        f"It needs {best.peak_bytes / 1e9:.1f} of {budget / 1e9:.1f} GB that may be planned with; up to"
        f" {best.most_images} images would fit."
    )
    lighter = [o for o in plan.options if o.stage == best.stage and o.flops < best.flops]
    if lighter and not any(o.fits for o in lighter):
        extra = best.flops / min(o.flops for o in lighter) - 1
        yield f"Recomputing adds {extra:.0%} of arithmetic, but nothing that adds less fits."
    elif lighter:
        yield "It recomputes because larger micro-batches save more than that costs."
    else:
        yield "Recomputation would only add arithmetic: what it saves is not needed."
    if best.stage:
        yield _why_partitioned(plan, best)


def _why_partitioned(plan: RunPlan, best: Option) -> str:
    lower = [o for o in plan.options if o.policy == best.policy and o.stage < best.stage]
    if not any(o.fits for o in lower):
        return f"A stage below {best.stage} does not fit."
    saved = (lower[0].state.steady - best.state.steady) / 1e9
    if saved < _NOTICEABLE:
        return f"Stage {best.stage} is as configured; on so few GPUs, or for so small a network, it saves no memory."
    share = saved / (plan.situation.gpu.memory / 1e9)
    text = f"Against stage 0 it saves {saved:.1f} GB of state, {share:.0%} of a GPU"
    if numerics(plan.situation.config.training.precision, 0).autocast:
        return f"{text}, and computes with bf16 parameters and float32 master weights, where stage 0 casts on the fly."
    return f"{text}; stage 0 would be as fast."


def _configured(plan: RunPlan) -> Iterator[str]:
    mine, best = plan.configured, plan.recommended
    if not mine.fits:
        least = mine.state.peak(mine.activations.peak(1)) / 1e9
        yield (
            f"As configured (stage {mine.stage}, policy {mine.policy}) it does not fit: one image needs {least:.1f} GB."
        )
    elif mine.step_seconds > best.step_seconds * 1.02:
        slower = mine.step_seconds / best.step_seconds - 1
        yield f"As configured (stage {mine.stage}, policy {mine.policy}) a step takes {slower:.0%} longer."


def _loader(plan: RunPlan) -> Iterator[str]:
    rate, request = plan.request.loader_rate, plan.request
    if rate is None:
        return
    nodes = math.ceil(request.gpus / request.gpus_per_node)
    have, want = rate * nodes, plan.duration.images_per_second
    if have < want:
        can = "take" if plan.calibrated else "could at most take"
        these = "a node makes" if nodes == 1 else f"{nodes} nodes make"
        yield (
            f"The loader cannot keep up: {these} {have:,.0f} images per second, the GPUs {can} {want:,.0f};"
            " see `cait bench data`."
        )


def _network(plan: RunPlan) -> Iterator[str]:
    best = plan.recommended
    share = best.network_seconds / best.step_seconds
    if best.gpus > 1 and share > _NETWORK_MATTERS:
        yield f"The network alone needs at least {share:.0%} of a step: a larger global batch makes it matter less."


def _not_modelled(plan: RunPlan) -> Iterator[str]:
    training = plan.situation.config.training
    if training.float8:
        yield (
            "training.float8 is on: times are those without it, and to memory come 3 bytes for every number that goes"
            " into the largest linear layer, while that computes."
        )
    if training.compile:
        yield "training.compile is on: memory and time are those without it, which compiled branches should stay below."
