"""What makes a comparison less than it looks: in plain words, the most serious first.

Each function looks for one thing and yields a caution with names and numbers, or nothing. Their order in `_LOOKS` is
the order of the result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import wording
from .comparison import Caution, Group
from .groups import NO_SEED
from .measures import best_value, diverged, in_percent, last_value, set_and_weights, set_names
from .run_data import RunData
from .run_state import outcome, steps_done

MANY_GROUPS = 4
"""From here on the best of them is noticeably lucky."""


@dataclass(frozen=True)
class Case:
    """What the cautions look at."""

    runs: Sequence[RunData]
    groups: Sequence[Group]
    metric: str

    @cached_property
    def set(self) -> str:
        """The evaluation set of the metric."""
        return set_and_weights(self.metric, [name for run in self.runs for name in set_names(run)])[0]


def find_cautions(runs: Sequence[RunData], groups: Sequence[Group], metric: str) -> tuple[Caution, ...]:
    """Everything a careful reader must know before believing the table."""
    case = Case(runs, groups, metric)
    return tuple(caution for look in _LOOKS for caution in look(case))


def _other_validation_set(case: Case) -> Iterator[Caution]:
    seen = {run.name: run.facts.sets[case.set].digest for run in case.runs if case.set in run.facts.sets}
    if len(set(seen.values())) > 1:
        usual = Counter(seen.values()).most_common(1)[0][0]
        others = [name for name, digest in seen.items() if digest != usual]
        sizes = {run.facts.sets[case.set].images for run in case.runs if case.set in run.facts.sets}
        counts = f" ({' and '.join(f'{size:,}' for size in sorted(sizes))} images)" if len(sizes) > 1 else ""
        text = (
            f"{wording.names(others)} measured {case.set} on other images than the rest{counts}: the values cannot be "
            f"compared."
        )
        yield Caution("other-validation-set", text, tuple(others))


def _diverged(case: Case) -> Iterator[Caution]:
    lost = [run.name for run in case.runs if diverged(run, case.metric)]
    if lost:
        text = (
            f"{wording.names(lost)} diverged (the loss is no number at the end). This is a result of the setting, but "
            f"no number: it is left out of the mean."
        )
        yield Caution("diverged", text, tuple(lost))


def _unfinished(case: Case) -> Iterator[Caution]:
    open_ones = [run for run in case.runs if not run.finished]
    if open_ones:
        left_out = {name for group in case.groups for name in group.left_out}
        kept = [run.name for run in open_ones if run.name not in left_out]
        each = [f"{run.name} ({outcome(run)} at step {steps_done(run):,})" for run in open_ones]
        counts = (
            f"; counted all the same, as nothing of its group is finished: {wording.names(kept)}"
            if kept
            else "; left out"
        )
        yield Caution("unfinished", f"Not finished: {wording.names(each)}{counts}.", tuple(r.name for r in open_ones))


def _other_image_size(case: Case) -> Iterator[Caution]:
    yield from _unequal(case, "image-size", "image size", [run.facts.image_size for run in case.runs], "pixels")
    crops = [run.config.get("evaluation.crop_ratio") for run in case.runs]
    yield from _unequal(case, "crop-ratio", "crop ratio in evaluation", crops, "")


def _other_images(case: Case) -> Iterator[Caution]:
    digests = [run.facts.train_digest for run in case.runs]
    sizes = [run.facts.train_images for run in case.runs]
    if len({digest for digest in digests if digest is not None}) > 1:
        counts = _spelled(sizes, "images")
        text = f"The runs were trained on different images{f': {counts}' if counts else ''}."
        yield Caution("other-training-set", text, tuple(run.name for run in case.runs))
    else:
        yield from _unequal(case, "image-count", "number of training images", sizes, "images")


def _unequal(case: Case, kind: str, what: str, values: Sequence[object], unit: str) -> Iterator[Caution]:
    if spelled := _spelled(values, unit):
        names = tuple(run.name for run, value in zip(case.runs, values, strict=True) if value is not None)
        yield Caution(kind, f"The {what} is not the same in all runs: {spelled}.", names)


def _spelled(values: Sequence[object], unit: str) -> str:
    """``24 and 32 pixels``; nothing unless known values differ."""
    known = dict.fromkeys(wording.setting(value) for value in values if value is not None)
    return f"{wording.names(list(known))} {unit}".strip() if len(known) > 1 else ""


def _ema_against_raw(case: Case) -> Iterator[Caution]:
    lacking = [run for run in case.runs if case.metric not in run.curves]
    if not lacking:
        return
    quantity = case.metric.rpartition("/")[2]
    twin = f"{case.set}/{quantity}" if case.metric.startswith(f"{case.set}_ema/") else f"{case.set}_ema/{quantity}"
    averaged = tuple(run.name for run in lacking if twin in run.curves)
    if averaged:
        text = (
            f"{wording.names(averaged)} measured {twin} only, not {case.metric}: raw weights and their moving average "
            f"are not compared with each other; name --metric {twin} if all runs have it."
        )
        yield Caution("ema-against-raw", text, averaged)
    missing = tuple(run.name for run in lacking if run.name not in averaged)
    if missing:
        yield Caution("no-value", f"There is no {case.metric} of {wording.names(missing)}.", missing)


def _fewer_steps(case: Case) -> Iterator[Caution]:
    steps = {run.name: steps_done(run) for run in case.runs if run.finished}
    most = max(steps.values(), default=0)
    fewer = tuple(name for name, done in steps.items() if done < most)
    if fewer:
        few = min(steps[name] for name in fewer)
        text = f"Fewer training steps than others: {wording.names(fewer)} ({few:,} against {most:,})."
        yield Caution("fewer-steps", text, fewer)


def _same_seed_twice(case: Case) -> Iterator[Caution]:
    for group in case.groups:
        counts = Counter(seed for seed in group.seeds if seed != NO_SEED)
        again = tuple(n for n, seed in zip(group.runs, group.seeds, strict=True) if counts[seed] > 1)
        if again:
            text = (
                f"{wording.names(again)} have the same settings and the same seed: they are one run done again, and "
                f"tell nothing of luck. Tests count each seed once."
            )
            yield Caution("same-seed-twice", text, again)


def _single_seed(case: Case) -> Iterator[Caution]:
    alone = [group for group in case.groups if group.n == 1]
    if len(case.groups) > 1 and alone:
        text = (
            f"{wording.count(len(alone), 'setting')} of {len(case.groups)} {'was' if len(alone) == 1 else 'were'} run "
            f"with one seed only, so that nobody knows how much of the value is luck: repeat with seed=0..2."
        )
        yield Caution("single-seed", text, tuple(n for g in alone for n in g.runs if n not in g.left_out))


def _winners_curse(case: Case) -> Iterator[Caution]:
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
        f"The best of {len(tried)} settings was chosen by looking at {case.set}.{luck} Confirm it with new seeds, or "
        f"on images that chose nothing."
    )
    yield Caution("best-of-many", text, tried[0].runs)


def highest_of(number: int) -> float:
    """How far the highest of so many normal values lies above their mean, in standard deviations (Blom)."""
    from statistics import NormalDist  # noqa: PLC0415 - beside its only use

    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))


def _best_over_epochs(case: Case) -> Iterator[Caution]:
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


def _not_finite(case: Case) -> Iterator[Caution]:
    counts = {run.name: run.totals["train/loss"].not_finite for run in case.runs if "train/loss" in run.totals}
    hit = tuple(run.name for run in case.runs if counts.get(run.name) and not diverged(run, case.metric))
    if hit:
        each = [f"{name} ({wording.count(counts[name], 'step')})" for name in hit]
        yield Caution("not-finite", f"The training loss was no number for a while in {wording.names(each)}.", hit)


def _other_code(case: Case) -> Iterator[Caution]:
    commits = {run.name: run.facts.code.get("commit", run.facts.code.get("version")) for run in case.runs}
    known = {commit for commit in commits.values() if commit is not None}
    changed = tuple(name for name, commit in commits.items() if commit is not None and "+changes" in commit)
    if len({commit.partition("+")[0] for commit in known}) > 1:
        text = f"The runs were made with {len({c.partition('+')[0] for c in known})} different versions of the code."
        yield Caution("other-code", text, tuple(commits))
    if changed:
        text = f"The code of {wording.names(changed)} had changes that no commit holds: nobody can run it again."
        yield Caution("uncommitted-changes", text, changed)


def _other_hardware(case: Case) -> Iterator[Caution]:
    kinds = dict.fromkeys(run.facts.device for run in case.runs if run.facts.device is not None)
    if len(kinds) > 1:
        text = f"Speeds, hours and costs are of different devices: {wording.names(list(kinds))}."
        yield Caution("other-hardware", text, tuple(run.name for run in case.runs))


def _untold(case: Case) -> Iterator[Caution]:
    silent = tuple(run.name for run in case.runs if run.facts.train_digest is None or case.set not in run.facts.sets)
    if silent and not case.metric.startswith(("train/", "perf/")):
        text = f"Which images {wording.names(silent)} saw is not known, nor whether others saw the same."
        yield Caution("old-run", text, silent)


_LOOKS: tuple[Callable[[Case], Iterator[Caution]], ...] = (
    _other_validation_set,
    _diverged,
    _unfinished,
    _other_image_size,
    _other_images,
    _ema_against_raw,
    _fewer_steps,
    _same_seed_twice,
    _single_seed,
    _winners_curse,
    _best_over_epochs,
    _not_finite,
    _other_code,
    _other_hardware,
    _untold,
)
