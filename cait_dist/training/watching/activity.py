"""What this process is doing right now: a few words that cost nothing to keep, for the moment when somebody waits.

The loop says which part of a step it enters, `World` which exchange it waits in. All ranks pass through the same parts
in the same order, so the number of parts begun can be compared between ranks: who has begun fewer is the one that the
others wait for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STARTING, DATA, FORWARD, BACKWARD, OPTIMIZER = "starting", "data", "forward pass", "backward pass", "optimizer step"
RECORDING, EVALUATION, SAVING, ENDING = "recording", "evaluation", "saving", "ending"


@dataclass
class Activity:
    """Of one process.

    Attributes:
        step: being done, counted from 1; 0 before the first.
        steps_begun: by this process.
        part: of the step.
        exchange: with the other ranks that is waited for, empty if none of those that are noted.
        begun: parts and exchanges begun.
        progress: when something last went on, by ``time.monotonic``.
    """

    step: int = 0
    steps_begun: int = 0
    part: str = STARTING
    exchange: str = ""
    begun: int = 0
    progress: float = field(default_factory=time.monotonic)


activity = Activity()
"""Of this process. One for all of it, as it has one training loop, and a watcher that looks on."""


def begin_step(step: int) -> None:
    """The loop begins a step, counted from 1."""
    activity.step = step
    activity.steps_begun += 1
    enter(DATA)


def enter(part: str) -> None:
    """The loop enters a part of a step. Every rank passes through the same ones."""
    activity.part = part
    activity.begun += 1
    activity.progress = time.monotonic()


def go_on() -> None:
    """Something went on within a part, on this rank alone perhaps."""
    activity.progress = time.monotonic()


@contextmanager
def exchanging(what: str) -> Iterator[None]:
    """Around an exchange in which every rank takes part."""
    activity.exchange = what
    activity.begun += 1
    activity.progress = time.monotonic()
    yield
    # Not where it fails: that is no progress, and the error is about to be explained.
    activity.progress = time.monotonic()
    activity.exchange = ""


def start_over() -> Activity:
    """Forget what was done before training; returns the process's activity."""
    activity.__dict__.update(Activity().__dict__)
    return activity
