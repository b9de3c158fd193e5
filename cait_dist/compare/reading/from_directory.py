"""A run, from its directory."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cait_dist.config import flatten, load_config
from cait_dist.tracking.digest import (
    COUNT,
    HIGH,
    HIGH_STEP,
    LAST,
    LOW,
    LOW_STEP,
    NOT_FINITE,
    SUM,
    Digest,
    Points,
    read_digest,
)
from cait_dist.tracking.run_directory import RunDirectory, read_json

from ..run_data import AttemptData, Curve, RunData, RunFacts, SetFacts, Total

FACTS_FILE = "facts.json"


def run_from_directory(path: Path) -> RunData:
    """Read one run.

    Args:
        path: of its directory

    Raises:
        RunDirectoryError: if there is no run
        ConfigError: if its config.yaml cannot be read
    """
    run = RunDirectory.existing(path)
    record = run.read_record()
    digests = [read_digest(run.attempt(entry["number"])) for entry in record["attempts"]]
    cuts = _cuts(digests)
    tables, last = _joined(digests, cuts)
    return RunData(
        name=path.resolve().name,
        source=str(path.resolve()),
        config=flatten(load_config(run.config).config),
        facts=_facts(run, record),
        attempts=tuple(_attempts(run, record["attempts"], digests)),
        curves={key: curve_of(table, last[key]) for key, table in tables.items()},
        totals={key: total_of(table) for key, table in tables.items()},
        predictions=_predictions(path / "predictions"),
    )


def _cuts(digests: list[Digest]) -> list[float]:
    """The step up to which each attempt counts: where one that came later went on from."""
    cuts, cut = [], float("inf")
    for digest in reversed(digests):
        cuts.append(cut)
        if digest.covered:
            cut = min(cut, digest.resumed_from)
    return cuts[::-1]


def _joined(
    digests: Iterable[Digest], cuts: Iterable[float]
) -> tuple[dict[str, Points], dict[str, tuple[float, float, float]]]:
    """All attempts' stretches by metric, each step once, and the last point of each metric."""
    parts: dict[str, list[Points]] = {}
    last: dict[str, tuple[float, float, float]] = {}
    for digest, cut in zip(digests, cuts, strict=True):
        for key, stretches in digest.metrics.items():
            table = stretches.table()
            # A stretch that reaches over the cut is left out whole: it holds steps that were done again.
            kept = table[table[:, LAST] <= cut]
            parts.setdefault(key, []).append(kept)
            if digest.last[key][0] <= cut:
                last[key] = digest.last[key]
            elif len(kept):
                last[key] = tuple(kept[-1, HIGH_STEP : HIGH + 1])
    joined = {key: np.concatenate(tables) for key, tables in parts.items()}
    return {key: table for key, table in joined.items() if len(table) and key in last}, last


def curve_of(table: Points, last: tuple[float, float, float]) -> Curve:
    """The lowest and the highest point of each stretch in the order of steps, and the last point."""
    points = np.concatenate(
        [table[:, LOW_STEP : LOW + 1], table[:, HIGH_STEP : HIGH + 1], np.array([last], dtype=np.float64)]
    )
    _, first_of_step = np.unique(points[:, 0], return_index=True)
    points = points[first_of_step]
    # NaN of a stretch without a finite value gives way to the true last value.
    points[-1] = last
    return Curve(steps=points[:, 0], times=points[:, 1], values=points[:, 2])


def total_of(table: Points) -> Total:
    """Sums over all values."""
    finite = table[:, COUNT] - table[:, NOT_FINITE]
    some = finite > 0
    if not some.any():
        nothing = float("nan")
        return Total(int(table[:, COUNT].sum()), nothing, nothing, nothing, nothing, int(table[:, NOT_FINITE].sum()))
    return Total(
        count=int(table[:, COUNT].sum()),
        mean=float(table[:, SUM].sum() / finite.sum()),
        typical=float(np.median(table[some, SUM] / finite[some])),
        low=float(np.nanmin(table[:, LOW])),
        high=float(np.nanmax(table[:, HIGH])),
        not_finite=int(table[:, NOT_FINITE].sum()),
    )


def _attempts(run: RunDirectory, entries: list[dict[str, Any]], digests: list[Digest]) -> Iterable[AttemptData]:
    for entry, digest in zip(entries, digests, strict=True):
        began = _seconds(entry["started"])
        ended = _seconds(entry["ended"]) if "ended" in entry else max(digest.last_time, began)
        is_last = entry is entries[-1]
        unknown = "running" if is_last and run.is_live() else "lost"
        yield AttemptData(
            number=entry["number"],
            began=began,
            ended=ended,
            first_step=entry.get("resumed_from") or 0,
            last_step=digest.last_step or entry.get("resumed_from") or 0,
            processes=entry["processes"],
            outcome=entry.get("outcome", unknown),
            redone_steps=entry.get("redone_steps", 0),
            lost_seconds=entry.get("lost_seconds", 0.0),
        )


def _facts(run: RunDirectory, record: Mapping[str, Any]) -> RunFacts:
    latest = record["attempts"][-1] if record["attempts"] else {}
    told: dict[str, Any] = {}
    for entry in record["attempts"]:
        told |= read_json(run.attempt(entry["number"]) / FACTS_FILE) or {}
    known = {name: told.get(name) for name in ("train_images", "image_size", "parameters", "macs", "device")}
    return RunFacts(
        global_batch=told.get("global_batch", record.get("global_batch")),
        total_steps=told.get("total_steps", record.get("total_steps")),
        train_digest=told.get("train_digest", record.get("data_digest")),
        peak_flops=told.get("peak_flops"),
        sets={name: SetFacts(each["digest"], each["images"]) for name, each in told.get("sets", {}).items()},
        code=latest.get("code", {}),
        environment=latest.get("environment", {}),
        **known,
    )


def _predictions(folder: Path) -> dict[str, Path]:
    return {"/".join(path.stem.rsplit("-", 1)): path for path in sorted(folder.glob("*.npz"))}


def _seconds(timestamp: str) -> float:
    """Of a time as run.json has it."""
    return float(calendar.timegm(time.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ")))
