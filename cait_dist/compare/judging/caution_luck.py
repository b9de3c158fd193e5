"""Cautions about chance, and about runs that did not come to a good end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from .. import wording
from ..comparison import Caution
from ..measures import best_value, in_percent, is_evaluation, last_value
from ..measures import diverged as has_diverged
from .caution_case import Case
from .groups import NO_SEED
from .run_state import outcome, steps_done

MANY_GROUPS = 4
"""From here on the best of them is noticeably lucky."""


def diverged(case: Case) -> Iterator[Caution]:
    """Runs whose training left the numbers."""
    lost = [run.name for run in case.runs if has_diverged(run, case.metric)]
    if lost:
        text = (
            f"{wording.names(lost)} diverged (the loss is no number at the end). This is a result of the setting, but "
            f"no number: it is left out of the mean."
        )
        yield Caution("diverged", text, tuple(lost))


def unfinished(case: Case) -> Iterator[Caution]:
    """Runs that were not trained to their end."""
    open_ones = [run for run in case.runs if not run.finished]
    if open_ones:
        left_out = {name for group in case.groups for name in group.left_out}
        kept = [run.name for run in open_ones if run.name not in left_out]
        gone = [run.name for run in open_ones if run.name in left_out]
        each = [f"{run.name} ({outcome(run)} at step {steps_done(run):,})" for run in open_ones]
        counts = f" Left out: {wording.names(gone)}." if gone else ""
        counts += f" Counted, as nothing of its setting is finished: {wording.names(kept)}." if kept else ""
        yield Caution("unfinished", f"Not finished: {wording.names(each)}.{counts}", tuple(r.name for r in open_ones))


def same_seed_twice(case: Case) -> Iterator[Caution]:
    """Runs that are no second draw."""
    for group in case.groups:
        counts = Counter(seed for seed in group.seeds if seed != NO_SEED)
        again = tuple(n for n, seed in zip(group.runs, group.seeds, strict=True) if counts[seed] > 1)
        if again:
            text = (
                f"{wording.names(again)} have the same settings and the same seed: they are one run done again, and "
                f"tell nothing of luck. Tests count each seed once."
            )
            yield Caution("same-seed-twice", text, again)


def single_seed(case: Case) -> Iterator[Caution]:
    """Settings of which nobody knows how much is luck."""
    alone = [group for group in case.groups if group.n == 1]
    if len(case.groups) > 1 and alone:
        which = f"{wording.count(len(alone), 'setting')} of {len(case.groups)} {'was' if len(alone) == 1 else 'were'}"
        text = (
            f"{'Each setting was' if len(alone) == len(case.groups) else which} run with one seed only, so that nobody "
            f"knows how much of the value is luck: repeat with seed=0..2."
        )
        yield Caution("single-seed", text, tuple(n for g in alone for n in g.runs if n not in g.left_out))


def winners_curse(case: Case) -> Iterator[Caution]:
    """The best of many settings, which is lucky."""
    tried = [group for group in case.groups if group.n]
    if len(tried) < MANY_GROUPS:
        return
    spreads = [(group.spread, group.n) for group in tried if group.spread is not None]
    freedom = sum(n - 1 for _, n in spreads)
    pooled = math.sqrt(sum((n - 1) * spread**2 for spread, n in spreads) / freedom) if freedom else 0.0
    error = pooled / math.sqrt(float(np.median([group.n for group in tried])))
    luck = ""
    if error > 0:
        gain = wording.difference(case.metric, error * highest_of(len(tried))).lstrip("+")
        luck = f" By luck alone, the best of {len(tried)} equal settings would look about {gain} better than it is."
    text = (
        f"The best of {len(tried)} settings was chosen by looking at {case.metric}.{luck} Confirm it with new seeds, "
        f"or on images that chose nothing."
    )
    yield Caution("best-of-many", text, tried[0].runs)


def highest_of(number: int) -> float:
    """How far the highest of so many normal values lies above their mean, in standard deviations (Blom)."""
    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))


def best_over_epochs(case: Case) -> Iterator[Caution]:
    """Runs that were better once, by looking at the set."""
    if not is_evaluation(case.metric):
        return
    gaps = {run.name: abs(best_value(run, case.metric) - last_value(run, case.metric)) for run in case.runs}
    least = 0.1 if in_percent(case.metric) else 0.0
    looked = {name: gap for name, gap in gaps.items() if math.isfinite(gap) and gap > least}
    if looked:
        widest = max(looked, key=lambda name: looked[name])
        gap = wording.difference(case.metric, looked[widest]).lstrip("+")
        text = (
            f"The best evaluation is better than the last by up to {gap} ({widest}): it was chosen by looking at "
            f"{case.set}, so that only last values are compared."
        )
        yield Caution("best-of-epochs", text, tuple(looked))


def not_finite(case: Case) -> Iterator[Caution]:
    """Losses that were no number for a while."""
    counts = {run.name: run.totals["train/loss"].not_finite for run in case.runs if "train/loss" in run.totals}
    hit = tuple(run.name for run in case.runs if counts.get(run.name) and not has_diverged(run, case.metric))
    if hit:
        each = [f"{name} ({wording.count(counts[name], 'step')})" for name in hit]
        yield Caution("not-finite", f"The training loss was no number for a while in {wording.names(each)}.", hit)
