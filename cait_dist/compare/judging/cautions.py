"""What makes a comparison less than it looks: in plain words, the most serious first.

Each look is for one thing, and yields a caution with names and numbers, or nothing. Their order here is the order of
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..comparison import Caution, Group
from ..run_data import RunData
from . import caution_luck, caution_sameness
from .caution_case import Case

_LOOKS: tuple[Callable[[Case], Iterator[Caution]], ...] = (
    caution_sameness.other_validation_set,
    caution_luck.diverged,
    caution_luck.unfinished,
    caution_sameness.other_image_size,
    caution_sameness.other_images,
    caution_sameness.ema_against_raw,
    caution_sameness.fewer_steps,
    caution_luck.same_seed_twice,
    caution_luck.single_seed,
    caution_luck.winners_curse,
    caution_luck.best_over_epochs,
    caution_luck.not_finite,
    caution_sameness.other_code,
    caution_sameness.other_hardware,
    caution_sameness.untold,
)


def find_cautions(runs: Sequence[RunData], groups: Sequence[Group], metric: str) -> tuple[Caution, ...]:
    """Everything a careful reader must know before believing the table."""
    case = Case(runs, groups, metric)
    return tuple(caution for look in _LOOKS for caution in look(case))
