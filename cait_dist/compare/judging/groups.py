"""Runs that differ in nothing but luck, together: their mean, how far they spread, and the order of the groups.

A run that diverged is a result, yet no number: it is named in a caution and left out of the mean, as any number put in
its place would be invented. A run that was not trained to its end is left out where another of its group was: half a
schedule says nothing about the setting. What was left out is in `Group.left_out`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..comparison import Difference, Group
from ..measures import higher_is_better, result
from ..run_data import RunData
from .differences import SEED, deciding
from .labels import label_groups

NO_SEED = -1
"""Stands for a seed that nobody knows; never the same as another's."""


def group_runs(runs: Sequence[RunData], found: Sequence[Difference], metric: str) -> tuple[Group, ...]:
    """Groups of runs equal in everything that decides but the seed, best first.

    Args:
        runs: all of them
        found: `differences` between them
        metric: by which they are ranked

    Returns:
        the groups; those without a finite value come last
    """
    members: dict[tuple[str, ...], list[int]] = {}
    for position in range(len(runs)):
        members.setdefault(tuple(deciding(found, position).values()), []).append(position)
    settings = [deciding(found, positions[0]) for positions in members.values()]
    names = [[runs[position].name for position in positions] for positions in members.values()]
    labels = label_groups(settings, names, dict.fromkeys(key for run in runs for key in run.config))
    groups = [
        _group(label, own, [runs[position] for position in positions], metric)
        for label, own, positions in zip(labels, settings, members.values(), strict=True)
    ]
    sign = -1 if higher_is_better(metric) else 1
    return tuple(sorted(groups, key=lambda group: (math.isnan(group.mean), sign * group.mean, group.label)))


def counted(group: Group) -> dict[int, list[float]]:
    """The values in a group's mean by seed; a seed that was run twice has two, an unknown one is on its own."""
    values: dict[int, list[float]] = {}
    for place, (name, seed, value) in enumerate(zip(group.runs, group.seeds, group.values, strict=True)):
        if name not in group.left_out:
            values.setdefault(seed if seed != NO_SEED else NO_SEED - 1 - place, []).append(value)
    return values


def seed_of(run: RunData) -> int:
    """A run's seed, `NO_SEED` if it does not tell."""
    try:
        return int(run.config[SEED])
    except (KeyError, TypeError, ValueError):
        return NO_SEED


def _group(label: str, settings: dict[str, str], runs: Sequence[RunData], metric: str) -> Group:
    values = [result(run, metric) for run in runs]
    some_finished = any(run.finished and math.isfinite(value) for run, value in zip(runs, values, strict=True))
    left_out = tuple(
        run.name
        for run, value in zip(runs, values, strict=True)
        if not math.isfinite(value) or (some_finished and not run.finished)
    )
    kept = [value for run, value in zip(runs, values, strict=True) if run.name not in left_out]
    return Group(
        label=label,
        settings=settings,
        runs=tuple(run.name for run in runs),
        seeds=tuple(seed_of(run) for run in runs),
        values=tuple(values),
        mean=float(np.mean(kept)) if kept else math.nan,
        spread=float(np.std(kept, ddof=1)) if len(kept) > 1 else None,
        left_out=left_out,
    )
