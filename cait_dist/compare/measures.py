"""What a metric measures: on which set, by which weights, whether more is better, and a run's value of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .errors import CompareError, unknown
from .run_data import RunData

_EVALUATIONS = ("top1", "top5", "loss")
_LESS_IS_BETTER = ("loss", "seconds", "wait", "wait_share", "data_wait_share", "memory", "memory_gb", "peak_memory_gb")
_OWN = ("train", "perf", "health", "system")
"""Prefixes that are no evaluation sets."""


def is_evaluation(metric: str) -> bool:
    """Whether it was measured on an evaluation set."""
    prefix, _, quantity = metric.rpartition("/")
    return quantity in _EVALUATIONS and prefix != "" and prefix not in _OWN


def higher_is_better(metric: str) -> bool:
    """Whether more of it is better; accuracy and speed yes, loss and time no."""
    quantity = metric.rpartition("/")[2]
    return quantity not in _LESS_IS_BETTER and not quantity.endswith("_seconds")


def in_percent(metric: str) -> bool:
    """Whether its values are percents, whose differences are points."""
    return metric.rpartition("/")[2] in ("top1", "top5")


def set_and_weights(metric: str, sets: Sequence[str] = ()) -> tuple[str, str]:
    """The evaluation set of a metric, and the weights that were measured: ``val_ema/top1`` is ``("val", "ema")``."""
    prefix = metric.rpartition("/")[0]
    if prefix.endswith("_ema") and prefix not in sets:
        return prefix.removesuffix("_ema"), "ema"
    return prefix, "raw"


def set_names(run: RunData) -> list[str]:
    """Names of a run's evaluation sets, in the order of its configuration."""
    configured = run.config.get("evaluation.sets")
    try:
        entries = json.loads(configured) if isinstance(configured, str) else (configured or [])
        named = [str(entry["name"]) for entry in entries]
    except (ValueError, TypeError, KeyError):
        named = []
    return list(dict.fromkeys([*named, *run.facts.sets]))


def choose_metric(runs: Sequence[RunData], asked: str | None) -> str:
    """The metric that decides: the one asked for, else top-1 of the first evaluation set that most runs have.

    Args:
        runs: at least one
        asked: by the user

    Returns:
        its name

    Raises:
        CompareError: if no run has it, or none has any
    """
    available = list(dict.fromkeys(metric for run in runs for metric, curve in run.curves.items() if len(curve.steps)))
    if asked is not None:
        if asked not in available:
            raise unknown("metric", asked, sorted(available, key=lambda name: (not is_evaluation(name), name)))
        return asked
    for suffix in ("/top1", "/loss"):
        if found := _most_common(runs, suffix):
            return found
    if "train/loss" in available:
        return "train/loss"
    raise CompareError("none of these runs holds a result yet: wait for an evaluation, or name a --metric")


def _most_common(runs: Sequence[RunData], suffix: str) -> str | None:
    counts: Counter[str] = Counter()
    for run in runs:
        sets = set_names(run)
        raw = [name for name in run.curves if name.endswith(suffix) and is_evaluation(name) and _is_raw(name, sets)]
        for name in sorted(raw, key=lambda name: _place(name, sets)):
            counts[name] += len(run.curves[name].steps) > 0
    # Counter keeps the order of arrival among equals: the first set wins.
    return next((name for name, count in counts.most_common(1) if count), None)


def _is_raw(metric: str, sets: Sequence[str]) -> bool:
    return set_and_weights(metric, sets)[1] == "raw"


def _place(metric: str, sets: Sequence[str]) -> int:
    name = set_and_weights(metric, sets)[0]
    return sets.index(name) if name in sets else len(sets)


def last_value(run: RunData, metric: str) -> float:
    """The value at the end; of a speed, the typical one, as the last step is as good as any. NaN if there is none."""
    if metric.startswith("perf/") and metric in run.totals:
        return run.totals[metric].typical
    return run.curves[metric].last if metric in run.curves else math.nan


def best_value(run: RunData, metric: str) -> float:
    """The best finite value of all; NaN if there is none."""
    values = run.curves[metric].values if metric in run.curves else np.empty(0)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan
    return float(finite.max() if higher_is_better(metric) else finite.min())


def diverged(run: RunData, metric: str) -> bool:
    """Whether training had left the numbers by its end.

    Broken weights still have an accuracy, that of guessing one class: so the losses are asked, too.
    """
    prefix = metric.rpartition("/")[0]
    asked = {metric, "train/loss", f"{prefix}/loss"}
    return any(
        len(run.curves[name].values) and not math.isfinite(run.curves[name].last) for name in asked & set(run.curves)
    )


def result(run: RunData, metric: str) -> float:
    """The value that stands for a run: the last one; NaN where there is none, or where it is of broken weights."""
    return math.nan if diverged(run, metric) else last_value(run, metric)
