"""`cait status`: what became of the runs in a folder, from their directories and one question to SLURM."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cait_dist.tracking.metrics import Row, recent_metrics, series
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError
from cait_dist.training.starting.attempt import note_lost_attempt
from cait_dist.training.watching.hang import first_hang

from .job_record import CANCELLED, REFUSED, JobRecord, launch_dir
from .slurm_commands import QueuedJob, SlurmError, queue

SWEEP_FILE = "sweep.json"
RECENT_STEPS = 20
"""Lines of the metrics from which speed and remaining time are taken."""


@dataclass(frozen=True)
class RunStatus:
    """One line of the table.

    Attributes:
        run: name, below the folder that was asked for.
        state: queued, starting, running, ending, finished, stopped, cancelled, refused, failed or lost.
        job: id, empty for a run of this machine.
        step: done.
        total_steps: of the run; None if it never began.
        images_per_second: median of the last lines; None if there are none.
        eta_seconds: until the end at the present speed; None unless it is running.
        checkpoint: step of the newest complete one.
        restarts: attempts after the first.
        remark: why it waits, where it runs, what went wrong.
    """

    run: str
    state: str
    job: str
    step: int
    total_steps: int | None
    images_per_second: float | None
    eta_seconds: float | None
    checkpoint: int | None
    restarts: int
    remark: str


def find_runs(place: Path) -> list[Path]:
    """The run itself, or the runs in a folder, members of sweeps included.

    Raises:
        RunDirectoryError: if there is none
    """
    if _is_run(place):
        return [place]
    inside = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    found = [run for path in inside for run in (find_runs(path) if _is_sweep(path) else [path]) if _is_run(run)]
    if not found and not _is_sweep(place):
        raise RunDirectoryError(f"{place} holds no run: pass a run directory, or the folder of runs (runs_dir)")
    return found


def statuses(place: Path) -> list[RunStatus]:
    """The state of every run at a place.

    Raises:
        RunDirectoryError: if there is no run
    """
    runs = find_runs(place)
    jobs = queued_jobs(runs)
    above = place if place not in runs else place.parent
    return [status_of(run, jobs, str(run.relative_to(above))) for run in runs]


def queued_jobs(runs: Iterable[Path]) -> dict[str, QueuedJob] | None:
    """The queue, if any of the runs was ever submitted; None if SLURM cannot be asked."""
    if not any(JobRecord.read(run) for run in runs):
        return {}
    try:
        return queue()
    except SlurmError:
        return None


def status_of(run_dir: Path, jobs: dict[str, QueuedJob] | None, name: str) -> RunStatus:
    """The state of one run.

    Args:
        run_dir: of it
        jobs: the queue; None if it is not known
        name: to show
    """
    run, record = RunDirectory(run_dir), JobRecord.read(run_dir)
    job = (jobs or {}).get(record.job_id) if record else None
    facts = run.read_record()
    last: dict[str, Any] = facts["attempts"][-1] if facts["attempts"] else {}
    state, remark = _state(run, record, job, last, known=jobs is not None)
    rows = recent_metrics(run.attempt(last["number"])) if last else []
    step = max(rows[-1]["step"] if rows else 0, last.get("step") or 0, last.get("resumed_from") or 0)
    total = facts.get("total_steps")
    return RunStatus(
        run=name,
        state=state,
        job=record.job_id if record else "",
        step=step,
        total_steps=total,
        images_per_second=_speed(rows),
        eta_seconds=_eta(rows, total) if state == "running" else None,
        checkpoint=_newest_checkpoint(run),
        restarts=max(0, len(facts["attempts"]) - 1),
        remark=remark,
    )


def _state(
    run: RunDirectory, record: JobRecord | None, job: QueuedJob | None, last: dict[str, Any], known: bool
) -> tuple[str, str]:
    if job is not None:
        return _state_in_queue(run, job, last)
    settled = _settled(run, last)
    if settled is not None:
        return settled
    if run.is_live():
        return "running", _hanging(run, last)
    if not known:
        return "unknown", "SLURM cannot be asked from here"
    return "lost", "its job is gone without a word; the same command goes on with it" if last else _never_began(record)


def _settled(run: RunDirectory, last: dict[str, Any]) -> tuple[str, str] | None:
    """The end that the run directory tells of, None if it tells of none."""
    own, outcome = launch_dir(run.path), last.get("outcome")
    if outcome == "finished":
        return "finished", ""
    if (own / REFUSED).exists():
        return "refused", (own / REFUSED).read_text().strip()
    if (own / CANCELLED).exists() and outcome != "failed":
        return "cancelled", ""
    return (outcome, _what_went_wrong(last)) if outcome else None


def _state_in_queue(run: RunDirectory, job: QueuedJob, last: dict[str, Any]) -> tuple[str, str]:
    if job.state == "PENDING":
        return "queued", f"{job.reason}, may start {job.start}" if job.start not in ("N/A", "") else job.reason
    if job.state == "COMPLETING" or "outcome" in last:
        return "ending" if job.state == "COMPLETING" else "starting", job.nodes
    hanging = _hanging(run, last)
    return ("running" if last.get("job") == job.job_id else "starting"), hanging or job.nodes


def _hanging(run: RunDirectory, last: dict[str, Any]) -> str:
    """What ranks that still run say about others for which they wait too long."""
    hang = first_hang(run.attempt(last["number"])) if last else None
    return hang.message if hang else ""


def _what_went_wrong(last: dict[str, Any]) -> str:
    message = (last.get("failure") or {}).get("message", "").strip()
    lines = [line for line in message.splitlines() if line and not line.startswith((" ", "(its output"))]
    return lines[-1] if lines else last.get("verdict", "")


def _never_began(record: JobRecord | None) -> str:
    if record is None:
        return "was never submitted"
    return f"the job left without beginning; see {record.log}, and whether the nodes see that folder"


def _speed(rows: list[Row]) -> float | None:
    speeds = sorted(value for _, value in series(rows[-RECENT_STEPS:], "perf/images_per_second"))
    return speeds[len(speeds) // 2] if speeds else None


def _eta(rows: list[Row], total: int | None) -> float | None:
    recent = rows[-RECENT_STEPS:]
    if total is None or len(recent) < 2 or recent[-1]["step"] == recent[0]["step"]:
        return None
    pace = (recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"])
    return max(0.0, (total - recent[-1]["step"]) * pace - (time.time() - recent[-1]["time"]))


def _newest_checkpoint(run: RunDirectory) -> int | None:
    steps = [path.name.removeprefix("step-") for path in run.checkpoints.glob("step-*") if (path / "COMPLETE").exists()]
    return max((int(step) for step in steps if step.isdigit()), default=None)


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or (launch_dir(path) / "config.yaml").is_file()


def _is_sweep(path: Path) -> bool:
    return (path / SWEEP_FILE).is_file()


def mark_lost(place: Path) -> list[str]:
    """Tell MLflow of runs whose job is gone: it would show them as running for ever. Returns a line for each.

    Called after the table was printed, since MLflow may take its time.
    """
    lines = []
    runs = find_runs(place)
    jobs = queued_jobs(runs)
    for path in runs:
        run = RunDirectory(path)
        attempts = run.read_record()["attempts"]
        if not attempts or "outcome" in attempts[-1] or not run.mirror.exists():
            continue
        if status_of(path, jobs, path.name).state == "lost":
            lines.append(_mark(run))
    return lines


def _mark(run: RunDirectory) -> str:
    from cait_dist.tracking.sync import sync_to_mlflow  # noqa: PLC0415 - few runs are lost

    note_lost_attempt(run)
    try:
        sync_to_mlflow(run.path)
    except RunDirectoryError as error:
        return f"{run.path} is lost; MLflow will know after `cait track sync {run.path}` ({error})"
    return f"{run.path} is lost: MLflow shows it as KILLED now"


def shown_eta(seconds: float | None) -> str:
    """``1:02:03``, or nothing."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
