"""`cait logs`: the story of a job with the output of rank 0, or the output of another rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError

from .failure import log_of
from .job_record import JobRecord
from .slurm_commands import SlurmError, queue

POLL_SECONDS = 0.5
ASK_SLURM_EVERY = 10.0


def read_logs(run_dir: Path, rank: int | None, attempt: int | None, follow: bool) -> Iterator[str]:
    """Pieces of a log, as they come.

    Args:
        run_dir: of the run
        rank: None for the job's own log, which rank 0 shares
        attempt: of the rank's log; None for the newest
        follow: go on until the job has ended, through all of its restarts

    Raises:
        RunDirectoryError: if there is no such log
    """
    path = _find(run_dir, rank, attempt)
    alive = _alive(run_dir) if follow else bool  # bool() is False
    while True:
        yield from _tail(path, partial(_still_written, path, partial(_newest, run_dir, rank, attempt), alive))
        newest = _newest(run_dir, rank, attempt, path)
        if newest == path:
            return
        path = newest
        yield f"--- {path}\n"


def _still_written(path: Path, newest: Callable[[Path], Path], alive: Callable[[], bool]) -> bool:
    return alive() and newest(path) == path


def _tail(path: Path, goes_on: Callable[[], bool]) -> Iterator[str]:
    with path.open(errors="replace") as file:
        while True:
            last_look = not goes_on()
            while text := file.read(1 << 16):
                yield text
            if last_look:
                return
            time.sleep(POLL_SECONDS)


def _find(run_dir: Path, rank: int | None, attempt: int | None) -> Path:
    record, run = JobRecord.read(run_dir), RunDirectory(run_dir)
    if rank is None and record is not None:
        if record.log.is_file():
            return record.log
        raise RunDirectoryError(f"job {record.job_id} has not written {record.log} yet: see `cait status {run_dir}`")
    numbers = [path.name.removeprefix("attempt-") for path in run.attempts()]
    if not numbers:
        raise RunDirectoryError(f"{run_dir} has no attempt yet: see `cait status {run_dir}`")
    path = log_of(run.attempt(attempt or int(numbers[-1])), rank or 0)
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in path.parent.glob("rank-*.log"))) or f"attempts {', '.join(numbers)}"
        raise RunDirectoryError(f"there is no {path} (there are: {there})")
    return path


def _newest(run_dir: Path, rank: int | None, attempt: int | None, current: Path) -> Path:
    if rank is None or attempt is not None:
        return current
    path = log_of(RunDirectory(run_dir).attempts()[-1], rank)
    return path if path.is_file() else current


def _alive(run_dir: Path) -> Callable[[], bool]:
    """Whether more can come: a process holds the run, or SLURM has its job. SLURM is not asked too often."""
    record, asked, answer = JobRecord.read(run_dir), 0.0, True

    def alive() -> bool:
        nonlocal asked, answer
        if RunDirectory(run_dir).is_live():
            return True
        if record is not None and time.monotonic() - asked > ASK_SLURM_EVERY:
            asked, answer = time.monotonic(), _is_queued(record.job_id)
        return record is not None and answer

    return alive


def _is_queued(job_id: str) -> bool:
    try:
        return job_id in queue()
    except SlurmError:
        return True  # an answer that did not come is no reason to stop
