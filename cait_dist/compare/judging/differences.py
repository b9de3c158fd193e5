"""What is not the same in all runs: settings, data, code and environment, and which of it decides the result.

What may change when a run is resumed decides nothing of what is learnt, by the rule of
``cait_dist.config.deciding``. The images decide, not the folder they lie in; only where a run does not tell their
digest, the folder stands for it. The code decides only where it is plainly what is compared: nothing else differs, and
the same seed was run with two versions of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from cait_dist.config.deciding import decides_result, names_the_run

from ..comparison import Difference
from ..measures import is_evaluation, set_and_weights, set_names
from ..run_data import RunData
from ..wording import setting
from .run_state import devices

SEED = "seed"


def differences(runs: Sequence[RunData], metric: str = "val/top1") -> tuple[Difference, ...]:
    """Everything that differs between runs, what decides first.

    Args:
        runs: to look at
        metric: whose evaluation set decides the measured result; other sets do not

    Returns:
        settings, data, code, environment; in each what decides first, in the order of the configuration
    """
    measured = set_and_weights(metric, [name for run in runs for name in set_names(run)])[0]
    found = [
        *_differing("config", [_settings(run) for run in runs], _deciding_settings(runs, measured, metric)),
        *_differing("data", [_data(run) for run in runs], _deciding_data(runs, measured)),
        *_differing("code", [dict(run.facts.code) for run in runs], ()),
        *_differing("environment", [_environment(run) for run in runs], ()),
    ]
    if not any(difference.decides and difference.key != SEED for difference in found):
        found = [_as_compared(difference, runs) for difference in found]
    return tuple(sorted(found, key=lambda difference: not difference.decides))


def deciding(found: Iterable[Difference], position: int) -> dict[str, str]:
    """What decides the result of one run, its seed apart; equal for runs that differ in nothing but luck.

    Args:
        found: differences between all runs
        position: of the run among them
    """
    return {each.key: each.values[position] for each in found if each.decides and each.key != SEED}


def _differing(kind: str, facts: Sequence[Mapping[str, Any]], decide: Iterable[str]) -> list[Difference]:
    keys = dict.fromkeys(key for run in facts for key in run)
    # Only a setting may be spelled in two ways: a digest of hexadecimal digits is no number, whatever it looks like.
    spell = setting if kind == "config" else str
    rows = {key: tuple(spell(run[key]) if key in run else "" for run in facts) for key in keys}
    decide = set(decide)
    return [
        # A run that lacks a setting is older than the setting: that alone makes it no other experiment.
        Difference(kind, key, values, key in decide and len(set(values) - {""}) > 1)
        for key, values in rows.items()
        if len(set(values)) > 1
    ]


_names_the_run = cache(names_the_run)
"""Asked for every setting of every run: of hundreds of runs that takes longer than the comparison."""


def _settings(run: RunData) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if not _names_the_run(key)}


def _deciding_settings(runs: Sequence[RunData], measured: str, metric: str) -> set[str]:
    found = {key for key in {key for run in runs for key in run.config} if decides_result(key)}
    if any(run.facts.train_digest is None for run in runs):
        found.add("data.path")
    if is_evaluation(metric) and any(measured not in run.facts.sets for run in runs):
        found.add("evaluation.sets")
    return found


def _data(run: RunData) -> dict[str, Any]:
    facts = run.facts
    known = {"train.digest": facts.train_digest, "train.images": facts.train_images}
    for name, images in facts.sets.items():
        known |= {f"{name}.digest": images.digest, f"{name}.images": images.images}
    return {key: value for key, value in known.items() if value is not None}


def _deciding_data(runs: Sequence[RunData], measured: str) -> set[str]:
    untold = any(run.facts.train_digest is None for run in runs)
    return {"train.digest", f"{measured}.digest"} | ({"train.images"} if untold else set())


def _environment(run: RunData) -> dict[str, Any]:
    known = {"device": run.facts.device, "processes": devices(run)}
    flat = dict(run.facts.environment) | {key: value for key, value in known.items() if value is not None}
    return {key: value for key, value in flat.items() if not isinstance(value, Mapping)}


def _as_compared(difference: Difference, runs: Sequence[RunData]) -> Difference:
    """The code as what decides, if a seed that comes twice shows that it is not there by chance."""
    if difference.kind != "code" or (difference.key != "commit" and any("commit" in run.facts.code for run in runs)):
        return difference
    by_seed: dict[Any, set[str]] = {}
    for run, value in zip(runs, difference.values, strict=True):
        by_seed.setdefault(run.config.get(SEED), set()).add(value)
    return replace(difference, decides=any(len(values - {""}) > 1 for values in by_seed.values()))
