"""The curves as the compact JSON that the page draws from.

A curve is ``[run, average, steps, values, times]``: the number of its run, 1 for the moving average, then steps and
times as differences from one point to the next. Times count from the run's first attempt, in units of ``tick`` seconds.
``null`` is a value that was not finite.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from ...comparison import Comparison
from ...run_data import Array, Curve, RunData
from .looks import SHAPES, Look, looks_of
from .metrics import charts, overview, split_average
from .thinning import share_points, thin

POINTS, LEAST, MOST = 54_000, 40, 600
"""Of all curves together, of each at least, of each at most."""

Json = dict[str, Any]


def payload(comparison: Comparison) -> Json:
    """Everything that the script needs, ready for JSON: no value in it is NaN or infinite."""
    looks = looks_of(comparison)
    metrics = charts((key for run in comparison.runs for key in run.curves), comparison.metric)
    return {
        "metric": split_average(comparison.metric)[0],
        "higher": comparison.higher_is_better,
        "target": _finite(comparison.target),
        "runs": [_run(run, looks[run.name]) for run in comparison.runs],
        "groups": [group.label for group in comparison.groups],
        "shapes": SHAPES,
        "metrics": [{"key": m.key, "title": m.title, "family": m.family} for m in metrics],
        "overview": overview(metrics, comparison.metric),
        "curves": _curves(comparison),
    }


def as_json(data: Json) -> str:
    """JSON that may stand within a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _run(run: RunData, look: Look) -> Json:
    began = run.attempts[0].began if run.attempts else math.nan
    return {
        "name": run.name,
        "group": look.group,
        "colour": look.colour,
        "shape": look.shape,
        "batch": run.facts.global_batch,
        "train": run.facts.train_images,
        "tick": _tick(run),
        "timed": math.isfinite(began),
        "attempts": [
            [a.number, _finite(a.began - began), _finite(a.ended - began), a.first_step, a.processes, a.outcome]
            for a in run.attempts
        ],
    }


def _curves(comparison: Comparison) -> dict[str, list[list[Any]]]:
    flat = [(n, key, curve) for n, run in enumerate(comparison.runs) for key, curve in run.curves.items()]
    shares = share_points([len(curve.steps) for _, _, curve in flat], POINTS, LEAST, MOST)
    found: dict[str, list[list[Any]]] = {}
    for (number, key, curve), points in zip(flat, shares, strict=True):
        base, average = split_average(key)
        coded = _curve(thin(curve, points), comparison.runs[number])
        found.setdefault(base, []).append([number, int(average), *coded])
    return found


def _curve(curve: Curve, run: RunData) -> tuple[list[float], list[float | None], list[int]]:
    began = run.attempts[0].began if run.attempts else 0.0
    ticks = np.nan_to_num((curve.times - began) / _tick(run), nan=0.0, posinf=0.0, neginf=0.0).round()
    return _steps(curve.steps), [_rounded(value) for value in curve.values.tolist()], _differences(ticks)


def _tick(run: RunData) -> float:
    """Seconds that nobody sees: a ten-thousandth of the run, as a round number."""
    whole = run.attempts[-1].ended - run.attempts[0].began if run.attempts else 0.0
    return 10.0 ** math.floor(math.log10(whole / 1e4)) if math.isfinite(whole) and whole > 0 else 0.001


def _steps(steps: Array) -> list[float]:
    if np.array_equal(steps, steps.round()):
        return [*_differences(steps)]
    return [float(f"{step:.9g}") for step in np.diff(steps, prepend=0.0)]


def _differences(values: Array) -> list[int]:
    return np.diff(values, prepend=0.0).astype(np.int64).tolist()


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _finite(value: float | None) -> float | None:
    return round(value, 3) if value is not None and math.isfinite(value) else None
