"""A fault is data: who does it, how, how long it lasts, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .subject import Subject

Mend = Callable[[], object]
"""Ends what was done."""
Strike = Callable[[Subject, Random], Mend | None]
"""Does it; returns what ends it, or None where nobody was there to be harmed: then it is tried again a little later."""


def nothing_to_mend() -> None:
    """For what is over at once."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: as the user chooses it.
        story: what happens, in a few words.
        strike: does it.
        lasts: least and most seconds until it is mended.
        settles: seconds after that in which it may still have consequences.
        interrupts: whether no attempt survives it, so that there is nothing to see before the next one.
        needs_mini: whether machines are harmed, which only a small cluster of one's own allows.
        settings: of the run, ``key=value``.
        profile: of the job, by the profile's field.
        small_disk: whether the run's folder lies on a small disk of its own.
    """

    name: str
    story: str
    strike: Strike
    lasts: tuple[float, float] = (0.0, 0.0)
    settles: float = 1.0
    interrupts: bool = False
    needs_mini: bool = False
    settings: tuple[str, ...] = ()
    profile: dict[str, Any] = field(default_factory=dict)
    small_disk: bool = False
