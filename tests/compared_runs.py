"""Runs to compare that nobody had to train: what is not said is like the run of the embedded example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cait_dist.compare.run_data import AttemptData, Curve, RunData, RunFacts, SetFacts, Total
from cait_dist.config import flatten, load_config

ROOT = Path(__file__).resolve().parents[1]
BEGAN = 1_800_000_000.0


@cache
def _settings(config: str) -> dict[str, Any]:
    return flatten(load_config(ROOT / "configs" / config).config)


def curve(*values: float, every: int = 100, seconds: float = 60) -> Curve:
    """Values at steps `every`, 2 · `every`, …, each `seconds` after the one before."""
    count = np.arange(1, len(values) + 1, dtype=np.float64)
    return Curve(every * count, np.array(values, dtype=np.float64), BEGAN + seconds * count)


def total(value: float, **more: Any) -> Total:
    return Total(**{"count": 10, "mean": value, "typical": value, "low": value, "high": value} | more)


def attempt(number: int = 1, **more: Any) -> AttemptData:
    usual = {"began": BEGAN, "ended": BEGAN + 3600, "first_step": 0, "last_step": 300, "processes": 2}
    return AttemptData(**{"number": number, "outcome": "finished"} | usual | more)


FACTS = RunFacts(
    global_batch=64,
    total_steps=300,
    train_images=1437,
    train_digest="1" * 64,
    image_size=24,
    parameters=490_000,
    macs=20_000_000,
    device="cpu",
    peak_flops=1e12,
    sets={"val": SetFacts("2" * 64, 360)},
    code={"version": "0.1", "commit": "c" * 40},
    environment={"python": "3.11.7", "torch": "2.8.0"},
)


def a_run(
    name: str,
    top1: float | Sequence[float] = 90.0,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = 0,
    curves: Mapping[str, Curve] | None = None,
    totals: Mapping[str, Total] | None = None,
    attempts: tuple[AttemptData, ...] | None = None,
    predictions: Mapping[str, Path] | None = None,
    config: str = "digits.yaml",
    outcome: str = "finished",
    **facts: Any,
) -> RunData:
    """A run with a last (or every) value of val/top1, and with whatever else is to be unusual."""
    values = [top1] if isinstance(top1, (int, float)) else list(top1)
    losses = [math.nan if math.isnan(value) else 2 - value / 100 for value in values]
    every = 300 // len(values)
    usual = {"val/top1": curve(*values, every=every), "val/loss": curve(*losses, every=every), "train/loss": curve(1.0)}
    own = {"name": name} | ({} if seed is None else {"seed": seed})
    base = {key: value for key, value in _settings(config).items() if key != "seed"}
    return RunData(
        name=name,
        source=f"runs/{name}",
        config={**base, **own, **(settings or {})},
        facts=replace(FACTS, **facts),
        attempts=(attempt(outcome=outcome),) if attempts is None else attempts,
        curves={**usual, **(curves or {})},
        totals={"perf/images_per_second": total(1000.0), "train/loss": total(1.0), **(totals or {})},
        predictions=predictions or {},
    )


def seeds(name: str, values: Sequence[float], first: int = 0, **more: Any) -> list[RunData]:
    """A run for each value, with seeds counted from ``first`` on."""
    return [a_run(f"{name}-seed_{first + i}", value, seed=first + i, **more) for i, value in enumerate(values)]


def two_settings(a: Sequence[float] = (71.1, 71.7, 71.0), b: Sequence[float] = (69.8, 70.4, 69.2)) -> list[RunData]:
    """Two learning rates with a few seeds each."""
    return [
        *seeds("high", a, settings={"optimizer.lr": 0.001}),
        *seeds("low", b, settings={"optimizer.lr": 0.0001}),
    ]


def save_predictions(
    path: Path, right: Sequence[bool], digest: str = "2" * 64, step: int = 300, first: int = 0
) -> Path:
    """Predictions of a network that is right where it is said to be."""
    label = np.arange(len(right)) % 10
    np.savez(
        path,
        sample=np.arange(first, first + len(right)),
        label=label,
        predicted=np.where(np.array(right), label, label + 1),
        loss=np.where(np.array(right), 0.1, 3.0).astype(np.float32),
        step=step,
        digest=digest,
    )
    return path
