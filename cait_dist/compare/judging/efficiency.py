"""What each run cost: speed, share of the peak, hours, money, and the time until a target was reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..comparison import Difference, Efficiency
from ..measures import higher_is_better
from ..run_data import RunData
from .differences import deciding
from .run_state import devices

FLOPS_PER_MAC = 6
"""A multiply-add is two operations, and the backward pass costs twice the forward pass."""


def efficiencies(
    runs: Sequence[RunData],
    found: Sequence[Difference],
    metric: str,
    price: float | None = None,
    target: float | None = None,
) -> tuple[Efficiency, ...]:
    """The cost of each run.

    Args:
        runs: all of them
        found: `differences` between them, to know whose speeds may be compared
        metric: that shall reach the target
        price: of a device for an hour
        target: value of the metric to be reached

    Returns:
        one for each run; None in it where a run does not tell
    """
    alone = [efficiency(run, metric, price, target) for run in runs]
    alike: dict[tuple[str, ...], list[int]] = {}
    for position, run in enumerate(runs):
        key = (*deciding(found, position).values(), str(run.facts.device))
        alike.setdefault(key, []).append(position)
    scaled = {place: value for places in alike.values() for place, value in _scaling(runs, alone, places).items()}
    return tuple(replace(each, scaling=scaled.get(place)) for place, each in enumerate(alone))


def efficiency(run: RunData, metric: str, price: float | None, target: float | None) -> Efficiency:
    """The cost of one run, without its place among others."""
    speed, number = _typical(run, "perf/images_per_second"), devices(run)
    per_device = speed / number if speed is not None and number else None
    hours = _device_hours(run)
    seconds, target_hours = _to_target(run, metric, target)
    wait, memory = run.totals.get("perf/data_wait_share"), run.totals.get("perf/peak_memory_gb")
    return Efficiency(
        images_per_second=speed,
        images_per_second_per_device=per_device,
        mfu=_mfu(run, per_device),
        device_hours=hours,
        wall_seconds=run.attempts[-1].ended - run.attempts[0].began if run.attempts else None,
        cost=hours * price if hours is not None and price is not None else None,
        data_wait_share=_finite(wait.mean) if wait else None,
        lost_seconds=sum(attempt.lost_seconds for attempt in run.attempts) if run.attempts else None,
        redone_steps=sum(attempt.redone_steps for attempt in run.attempts) if run.attempts else None,
        restarts=len(run.attempts) - 1 if run.attempts else None,
        peak_memory_gb=_finite(memory.high) if memory else None,
        seconds_to_target=seconds,
        device_hours_to_target=target_hours,
    )


def _typical(run: RunData, metric: str) -> float | None:
    return _finite(run.totals[metric].typical) if metric in run.totals else None


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _mfu(run: RunData, per_device: float | None) -> float | None:
    if per_device is None or not run.facts.macs or not run.facts.peak_flops:
        return None
    return per_device * FLOPS_PER_MAC * run.facts.macs / run.facts.peak_flops


def _device_hours(run: RunData) -> float | None:
    if not run.attempts:
        return None
    return sum(max(attempt.ended - attempt.began, 0) * attempt.processes for attempt in run.attempts) / 3600


def _to_target(run: RunData, metric: str, target: float | None) -> tuple[float | None, float | None]:
    """Wall seconds and device-hours until the metric first was at least as good as the target."""
    curve = run.curves.get(metric)
    if target is None or curve is None or not run.attempts:
        return None, None
    reached = curve.values >= target if higher_is_better(metric) else curve.values <= target
    if not reached.any():
        return None, None
    at = curve.times[[int(np.argmax(reached))]]
    return float(run.wall_seconds(at)[0]), float(run.device_hours(at)[0])


def _scaling(runs: Sequence[RunData], alone: Sequence[Efficiency], places: Sequence[int]) -> dict[int, float]:
    """Speed per device over that of the fewest devices, whose own mean is 1; nothing where all have as many."""
    known = [
        (number, speed, place)
        for place in places
        if (number := devices(runs[place])) and (speed := alone[place].images_per_second_per_device)
    ]
    fewest = min((number for number, _, _ in known), default=0)
    if all(number == fewest for number, _, _ in known):
        return {}
    reference = float(np.mean([speed for number, speed, _ in known if number == fewest]))
    return {place: speed / reference for _, speed, place in known}
