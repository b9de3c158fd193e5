"""Whether a job comes back, from what its attempts came to. Pure: nothing is read or done here.

Time limits and preemption end an attempt in good order, so the job comes back. A failure is given one more chance, on
whatever nodes SLURM finds: a bad GPU, a lost node, a file system that stuttered. But the same error at the same step
is no accident, and neither are attempts that never come to make a step: those would burn an allocation for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

FUTILE_ATTEMPTS = 3


class Action(Enum):
    """What happens to the job."""

    DONE = "done"
    REQUEUE = "requeue"
    STOP = "stop"


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        outcome: finished, stopped (saved and left), failed, or lost (nobody could tell).
        began: step it went on from.
        step: last step that it did.
        signature: of the error, None if there was none.
        explained: whether the user can mend the cause.
    """

    outcome: str
    began: int
    step: int
    signature: str | None = None
    explained: bool = False


@dataclass(frozen=True)
class Verdict:
    """The decision and its reason, for the log."""

    action: Action
    reason: str


def decide(attempts: Sequence[Ended], *, cancelled: bool, restarts: int, max_restarts: int) -> Verdict:
    """Judge the last attempt in the light of those before.

    Args:
        attempts: of this run, oldest first; the last one has just ended
        cancelled: whether the user asked for the end
        restarts: how often the job was requeued
        max_restarts: how often it may be
    """
    last = attempts[-1]
    if last.outcome == "finished":
        return Verdict(Action.DONE, "the run is finished")
    reasons = (
        (cancelled, f"cancelled at step {last.step}"),
        (last.explained, "this needs you, and trying again would not change it"),
        (_repeats_itself(attempts), f"the same error twice at step {last.step}: it would happen again"),
        (_gets_nowhere(attempts), f"{FUTILE_ATTEMPTS} attempts in a row made no step: is --time long enough to start?"),
        (restarts >= max_restarts, f"requeued {restarts} times, which is the profile's max_restarts"),
    )
    for holds, reason in reasons:
        if holds:
            return Verdict(Action.STOP, reason)
    if last.outcome == "stopped":
        return Verdict(Action.REQUEUE, f"saved at step {last.step}, goes on from there")
    return Verdict(Action.REQUEUE, f"failed at step {last.step} for the first time in this way, gets another chance")


def _repeats_itself(attempts: Sequence[Ended]) -> bool:
    if len(attempts) < 2:
        return False
    before, last = attempts[-2:]
    return last.signature is not None and (before.signature, before.step) == (last.signature, last.step)


def _gets_nowhere(attempts: Sequence[Ended]) -> bool:
    recent = attempts[-FUTILE_ATTEMPTS:]
    return len(recent) == FUTILE_ATTEMPTS and all(attempt.step <= attempt.began for attempt in recent)
