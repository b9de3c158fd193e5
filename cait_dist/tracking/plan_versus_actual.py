"""What a run was going to take, and what it took: ``plan-versus-actual.json``, written at the end of each attempt."""

from __future__ import annotations

import calendar
import time
from pathlib import Path
from statistics import median
from typing import Any

from cait_dist.config import load_config

from .inputs import read_facts_file
from .metrics import attempt_metrics, read_metrics, series
from .run_directory import RunDirectory, write_json

PLAN_VERSUS_ACTUAL = "plan-versus-actual.json"
_PLANNED = (
    "global_batch", "micro_batch", "accumulation", "parameters", "macs", "image_size", "train_images", "device",
    "peak_flops",
)  # fmt: skip


def write_plan_versus_actual(run: RunDirectory) -> Path:
    """Write the comparison into the run directory and return its path."""
    target = run.path / PLAN_VERSUS_ACTUAL
    write_json(target, plan_versus_actual(run))
    return target


def plan_versus_actual(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """The comparison; None stands for what an older run did not write down."""
    facts, record = read_facts_file(run), run.read_record()
    planned = {"steps": facts.get("total_steps", record.get("total_steps"))}
    planned |= {"epochs": load_config(run.config).config.training.epochs}
    planned |= {name: facts.get(name, record.get(name)) for name in _PLANNED}
    return {"planned": planned, "actual": _actual(run, record)}


def _actual(run: RunDirectory, record: dict[str, Any]) -> dict[str, Any]:
    rows, attempts = read_metrics(run), record["attempts"]
    spans = [(_began(entry), _ended(run, entry), entry["processes"]) for entry in attempts]
    epochs = series(rows, "train/epoch")
    speeds = [value for _, value in series(rows, "perf/images_per_second")]
    memory = [value for _, value in series(rows, "perf/peak_memory_gb")]
    return {
        "outcome": attempts[-1].get("outcome", "lost"),
        "steps": rows[-1]["step"] if rows else 0,
        "epochs": epochs[-1][1] if epochs else 0.0,
        "wall_seconds": spans[-1][1] - spans[0][0],
        "training_seconds": sum(ended - began for began, ended, _ in spans),
        "device_hours": sum((ended - began) * processes for began, ended, processes in spans) / 3600,
        "processes": spans[-1][2],
        "images_per_second": median(speeds) if speeds else None,
        "peak_memory_gb": max(memory) if memory else None,
        "restarts": len(attempts) - 1,
        "redone_steps": sum(entry.get("redone_steps", 0) for entry in attempts),
        "lost_seconds": round(sum(entry.get("lost_seconds", 0.0) for entry in attempts), 1),
    }


def _began(entry: dict[str, Any]) -> float:
    return _seconds(entry["started"])


def _ended(run: RunDirectory, entry: dict[str, Any]) -> float:
    if "ended" in entry:
        return _seconds(entry["ended"])
    rows = attempt_metrics(run.attempt(entry["number"]))
    return max(float(rows[-1]["time"]), _began(entry)) if rows else _began(entry)


def _seconds(stamp: str) -> float:
    return float(calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))
