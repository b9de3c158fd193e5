"""What MLflow is told about a run besides its metrics, all of it read from the run directory."""

import calendar
import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cait_dist.config import RunConfig, diff, flatten, load_config

from .metrics import recent_metrics
from .run_directory import RunDirectory, read_json

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "lost": "KILLED"}
"""Our outcomes in MLflow's words; an attempt without an outcome lost its process."""
SHOWN_FILES = ("report.md", "curves.svg", "plan-versus-actual.json", "run.json")
"""Beside the metrics; the configuration is there from the beginning."""


@dataclass(frozen=True)
class RunFacts:
    """What is known when an attempt begins.

    Attributes:
        key: by which the run is found in MLflow again, should its answer to the request to create it be lost
        started: seconds since the epoch, None where nobody wrote it down
        params: settings the run was begun with; MLflow refuses to change one
        tags: what it is found by; and settings that an attempt changed, as ``override.ATTEMPT.KEY``
    """

    key: str
    started: float | None
    params: dict[str, Any]
    tags: dict[str, str]


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        status: in MLflow's words
        error: the first failure in one line, None where there was none
        ended: seconds since the epoch, None for now
        artifacts: files to show
        tail: whether it has done steps that no checkpoint holds
    """

    status: str
    error: str | None
    ended: float | None
    artifacts: list[Path]
    tail: bool


def read_facts(run: RunDirectory) -> RunFacts:
    """Read them.

    Raises:
        ConfigError: if the run's configuration is not one of this version
    """
    record = run.read_record()
    begun, latest = load_config(run.config).config, record["attempts"][-1]
    config = _config_of(run, latest["number"]) or begun
    identity = [run.config.read_text(), record["attempts"][0].get("started"), run.path.name]
    return RunFacts(
        key=hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32],
        started=_seconds(record["attempts"][0].get("started")),
        params=flatten(begun),
        tags=_tags(run, config, record["attempts"]) | _overrides(run, begun, record["attempts"]),
    )


def read_ending(run: RunDirectory, last_words: BaseException | None = None) -> Ending:
    """How the newest attempt ended.

    Args:
        run: whose record tells the outcome; without one the attempt was lost
        last_words: the error that is ending this process, for want of a report
    """
    entry = run.read_record()["attempts"][-1]
    outcome = entry.get("outcome", "lost")
    error = None
    if outcome == "failed":
        error = first_error(run.attempt(entry["number"]), entry)
        if error is None and last_words is not None:
            error = _in_a_line(0, type(last_words).__name__, str(last_words))
    files = [run.path / name for name in SHOWN_FILES]
    return Ending(MLFLOW_STATUS[outcome], error, _end_of(run, entry), files, outcome in ("failed", "lost"))


def first_error(attempt_dir: Path, entry: Mapping[str, Any]) -> str | None:
    """The failure that made the others, in a line; None where no rank could report.

    Args:
        attempt_dir: where the ranks left their reports
        entry: of the attempt in run.json; whoever started the ranks may have written his verdict there
    """
    reports = {report["rank"]: report for report in map(read_json, attempt_dir.glob("rank-*.error.json"))}
    verdict = entry.get("failure")
    if verdict and verdict["rank"] not in reports:
        return " ".join(verdict["message"].split("\n", 1)[0].split())
    if not reports:
        return None
    first = reports[verdict["rank"]] if verdict else min(reports.values(), key=lambda report: report["time"])
    return _in_a_line(first["rank"], "" if first["explained"] else _kind(first), first["message"])


def durable_step(run: RunDirectory) -> float:
    """The step up to which a run will not be done again."""
    entry = run.read_record()["attempts"][-1]
    if entry.get("outcome") == "finished":
        return math.inf
    if entry.get("outcome") == "stopped":
        return float(entry["step"])  # it saves before it stops
    saved = [path.parent.name.removeprefix("step-") for path in run.checkpoints.glob("step-*/COMPLETE")]
    return float(max((int(step) for step in saved if step.isdigit()), default=entry.get("resumed_from") or -1))


def _config_of(run: RunDirectory, attempt: int) -> RunConfig | None:
    path = run.attempt(attempt) / "config.yaml"
    return load_config(path).config if path.is_file() else None


def _tags(run: RunDirectory, config: RunConfig, attempts: list[dict[str, Any]]) -> dict[str, str]:
    latest = attempts[-1]
    tags = {
        "variant": config.model.name,
        "world_size": str(latest["processes"]),
        "attempts": str(latest["number"]),
        "commit": latest["code"].get("commit", "unknown"),
        "run_dir": str(run.path.resolve()),
    }
    if config.tracking.parent_run_id is not None:
        tags["mlflow.parentRunId"] = config.tracking.parent_run_id
    if "job" in latest:
        tags |= {
            "slurm_job": latest["job"],
            "nodes": " ".join(latest["nodes"]),
            "requeued": str(_restarts(attempts)),
            "lost_seconds": f"{sum(a.get('lost_seconds', 0) for a in attempts):.0f}",
            "redone_steps": str(sum(a.get("redone_steps", 0) for a in attempts)),
        }
    return tags


def _restarts(attempts: list[dict[str, Any]]) -> int:
    """How often the scheduler has started a job of this run again."""
    by_job: dict[str, int] = {}
    for entry in attempts:
        if "job" in entry:
            by_job[entry["job"]] = max(by_job.get(entry["job"], 0), entry.get("restarts", 0))
    return sum(by_job.values())


def _overrides(run: RunDirectory, begun: RunConfig, attempts: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    before = run.config.read_text()
    for number in (entry["number"] for entry in attempts):
        path = run.attempt(number) / "config.yaml"
        if path.is_file() and path.read_text() != before:
            changes = diff(begun, load_config(path).config)
            found |= {f"override.{number}.{key}": str(value) for key, _, value in changes}
    return found


def _end_of(run: RunDirectory, entry: Mapping[str, Any]) -> float | None:
    """When the attempt ended; for one that was lost, its last sign of life."""
    if "ended" in entry:
        return _seconds(entry["ended"])
    rows = recent_metrics(run.attempt(entry["number"]))
    return float(rows[-1]["time"]) if rows else _seconds(entry.get("started"))


def _seconds(stamp: str | None) -> float | None:
    return None if stamp is None else float(calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))


def _kind(report: Mapping[str, Any]) -> str:
    """The error's class, which the traceback names before the message."""
    message = report["message"].split("\n")[0]
    lines = [line for line in report["traceback"].split("\n") if message in line and not line.startswith(" ")]
    return lines[-1].partition(":")[0] if lines else ""


def _in_a_line(rank: int, kind: str, message: str) -> str:
    first = (message.strip().split("\n") or [""])[0]
    return " ".join(f"rank {rank}: {kind + ': ' if kind else ''}{first}".split())
