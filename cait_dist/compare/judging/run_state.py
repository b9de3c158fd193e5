"""How far a run came, how it ended, and on how many devices."""

from __future__ import annotations

from ..run_data import RunData


def outcome(run: RunData) -> str:
    """How its last attempt ended; running if it goes on, unknown where no attempt is known."""
    return run.attempts[-1].outcome if run.attempts else "unknown"


def steps_done(run: RunData) -> int:
    """Optimizer steps behind it."""
    ends = [curve.steps[-1] for curve in run.curves.values() if len(curve.steps)]
    return int(max([*ends, *(attempt.last_step for attempt in run.attempts), 0]))


def epochs_done(run: RunData) -> float | None:
    """How often it has seen its images; None if their number or the batch is not known."""
    if not run.facts.global_batch or not run.facts.train_images:
        return None
    return steps_done(run) * run.facts.global_batch / run.facts.train_images


def devices(run: RunData) -> int | None:
    """Devices of the attempt that did the most steps; None if no attempt is known."""
    longest = max(run.attempts, key=lambda each: (each.last_step - each.first_step, each.number), default=None)
    return longest.processes if longest else None
