"""Every state a run can be in, from its directory and the queue."""

from pathlib import Path
from typing import Any

import pytest

from cait_dist.tracking.metrics import MetricsWriter
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError
from launch.job_record import CANCELLED, REFUSED, JobRecord, launch_dir
from launch.slurm_commands import QueuedJob
from launch.status import RunStatus, find_runs, status_of

ATTEMPT = {"job": "12", "resumed_from": 0, "started": "2026-01-01T00:00:00Z", "processes": 2}


def make_run(folder: Path, name: str = "s24", attempts: tuple[dict[str, Any], ...] = (), job: str = "12") -> Path:
    run = RunDirectory(folder / name)
    launch_dir(run.path).mkdir(parents=True)
    (launch_dir(run.path) / "config.yaml").touch()
    if job:
        JobRecord(job, str(launch_dir(run.path)), "generic", 2, 8, "1:00:00", 9, "now", {}).write(run.path)
    for number, attempt in enumerate(attempts, 1):
        run.attempt(number).mkdir()
        run.update_attempt(number, **{**ATTEMPT, **attempt})
    return run.path


def job(state: str, reason: str = "None", start: str = "N/A") -> dict[str, QueuedJob]:
    return {"12": QueuedJob("12", state, reason, "n[1-2]", "1:00", start)}


def look(run: Path, jobs: dict[str, QueuedJob] | None = None) -> RunStatus:
    return status_of(run, {} if jobs is None else jobs, run.name)


def test_waiting(tmp_path: Path) -> None:
    found = look(make_run(tmp_path), job("PENDING", "Priority", "2026-01-02T10:00:00"))
    assert (found.state, found.remark) == ("queued", "Priority, may start 2026-01-02T10:00:00")


def test_starting_before_its_first_attempt_and_after_a_requeue(tmp_path: Path) -> None:
    assert look(make_run(tmp_path, "new"), job("RUNNING")).state == "starting"
    assert look(make_run(tmp_path, "again", ({"outcome": "stopped"},)), job("RUNNING")).state == "starting"


def test_running_with_speed_and_remaining_time(tmp_path: Path) -> None:
    run = make_run(tmp_path, attempts=({},))
    RunDirectory(run).update_record(total_steps=1000)
    metrics = MetricsWriter(RunDirectory(run).attempt(1), 0)
    for step in range(1, 31):
        metrics.append(step, 4e9 + 2 * step, {"train/loss": 1.0, "perf/images_per_second": 500.0 + step % 2})
    metrics.close()
    found = look(run, job("RUNNING"))
    assert (found.state, found.step, found.total_steps, found.remark) == ("running", 30, 1000, "n[1-2]")
    assert found.images_per_second == pytest.approx(500.5, abs=0.5)
    # Two seconds a step, and the last line lies in the future: nothing has passed since.
    assert found.eta_seconds is not None
    assert found.eta_seconds >= 970 * 2


@pytest.mark.parametrize(
    ("attempt", "marks", "state", "remark"),
    [
        ({"outcome": "finished"}, (), "finished", ""),
        ({"outcome": "stopped", "verdict": "stop: requeued 9 times"}, (), "stopped", "stop: requeued 9 times"),
        ({"outcome": "stopped"}, (CANCELLED,), "cancelled", ""),
        ({"outcome": "failed", "failure": {"message": "rank 1 failed first:\n  at x\nRuntimeError: boom\n"}}, (),
         "failed", "RuntimeError: boom"),
        ({}, (), "lost", "its job is gone without a word"),
    ],
)  # fmt: skip
def test_after_its_end(
    tmp_path: Path, attempt: dict[str, Any], marks: tuple[str, ...], state: str, remark: str
) -> None:
    run = make_run(tmp_path, attempts=(attempt,))
    for mark in marks:
        (launch_dir(run) / mark).touch()
    found = look(run)
    assert found.state == state
    assert remark in found.remark


def test_refused_with_the_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (launch_dir(run) / REFUSED).write_text("the data is gone\n")
    assert (look(run).state, look(run).remark) == ("refused", "the data is gone")


def test_a_job_that_left_no_trace(tmp_path: Path) -> None:
    found = look(make_run(tmp_path))
    assert found.state == "lost"
    assert "12_0_log.out" in found.remark


def test_where_slurm_cannot_be_asked_it_does_not_guess(tmp_path: Path) -> None:
    run = make_run(tmp_path, attempts=({},))
    assert status_of(run, None, "s24").state == "unknown"


def test_a_run_of_this_machine_is_running_while_it_is_held(tmp_path: Path) -> None:
    run = make_run(tmp_path, attempts=({},), job="")
    assert look(run).state == "lost"
    RunDirectory(run).lock()
    assert look(run).state == "running"


def test_runs_are_found_in_folders_and_sweeps(tmp_path: Path) -> None:
    make_run(tmp_path, "one")
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "sweep.json").write_text("{}")
    make_run(tmp_path / "grid", "lr_1")
    (tmp_path / "something-else").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "grid" / "lr_1", tmp_path / "one"]
    assert find_runs(tmp_path / "one") == [tmp_path / "one"]
    with pytest.raises(RunDirectoryError, match="holds no run"):
        find_runs(tmp_path / "something-else")
