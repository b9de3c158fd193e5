"""``python -m launch.job.end FOLDER STATUS``: the last thing a job does, on its first node, after `srun` has ended.

All ranks are gone by now, so what happened can be told: which rank failed first and how, or that the run was saved.
Then the job is put back into the queue, or it ends. Its exit status is the run's: 0 finished or cancelled, 2 the user
can mend it, 1 otherwise. Where SLURM has taken the job back itself, there is nothing left to decide.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.tracking.storage import MENDABLE, explain, is_about_storage
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from cait_dist.training.watching.slow_nodes import slow_nodes_of
from launch.exclude import exclude, survive_requeue
from launch.failure import Failure, first_failure, note_failure, noted_exits, tell_mlflow
from launch.job.allocation import Allocation
from launch.job.verdict import Action, Ended, Verdict, decide
from launch.job_record import CANCELLED, JobRecord, launch_dir
from launch.slurm_commands import SlurmError, job_facts, requeue
from launch.sweep import close_parent_if_done

UNLIMITED = 1_000_000


def main(step_status: int) -> int:
    """End the job; where its disk takes no word of how it ended, that is told to the log alone.

    Returns:
        the job's exit status
    """
    try:
        return end(step_status)
    except OSError as error:
        if not is_about_storage(error):
            raise
        run = RunDirectory(Path(os.environ["CAIT_RUN_DIR"]))
        steps = [checkpoint.step for checkpoint in list_checkpoints(run.checkpoints)]
        print(explain(error, run.path, steps[-1] if steps else None), flush=True)
        return 2 if error.errno in MENDABLE else 1


def end(step_status: int) -> int:
    """Tell what happened, requeue or not; returns the job's exit status."""
    allocation = Allocation.read()
    run, number = RunDirectory(Path(os.environ["CAIT_RUN_DIR"])), int(os.environ["CAIT_ATTEMPT"])
    if not run.is_latest(number):
        return 0  # this job lost its nodes, and its successor is at work already
    failure = _note_outcome(run, number, step_status)
    verdict = _judge(run, allocation)
    run.update_attempt(number, verdict=f"{verdict.action.value}: {verdict.reason}")
    if failure is not None:
        print(failure.message, flush=True)
    print(f"job {allocation.job_id}, attempt {number}: {verdict.action.value} — {verdict.reason}", flush=True)
    if verdict.action is Action.REQUEUE:
        return _come_back(allocation, slow_nodes_of(run.attempt(number)))
    if failure is not None:
        tell_mlflow(run)
    close_parent_if_done(run.path)
    return failure.status if failure is not None else 0


def _note_outcome(run: RunDirectory, number: int, step_status: int) -> Failure | None:
    """Complete the attempt's entry with what rank 0 could not write, and return the first failure if there was one."""
    entry = _entry(run, number)
    if entry.get("outcome") in ("finished", "stopped"):
        return None
    directory = run.attempt(number)
    failure = first_failure(noted_exits(directory) or {0: step_status}, directory)
    note_failure(run, number, failure)
    return failure


def _judge(run: RunDirectory, allocation: Allocation) -> Verdict:
    run_dir, record = run.path, JobRecord.read(run.path)
    return decide(
        [_ended(entry) for entry in run.read_record()["attempts"]],
        cancelled=(launch_dir(run_dir) / CANCELLED).exists(),
        restarts=allocation.restarts,
        max_restarts=record.max_restarts if record else UNLIMITED,
    )


def _ended(entry: dict[str, Any]) -> Ended:
    began, failure = entry.get("resumed_from") or 0, entry.get("failure") or {}
    return Ended(
        outcome=entry.get("outcome", "lost"),
        began=began,
        step=entry.get("step", began),
        signature=failure.get("signature"),
        explained=failure.get("explained", False),
    )


def _entry(run: RunDirectory, number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(a for a in run.read_record()["attempts"] if a["number"] == number)
    return found


def _come_back(allocation: Allocation, slow: Sequence[str]) -> int:
    facts = job_facts(allocation.raw_id)
    state = facts.get("JobState", "RUNNING")
    # Past its time limit a job would not come back by itself; after a lost node or `scontrol requeue` it does.
    if state != "RUNNING" and facts.get("Reason") != "TimeLimit":
        print(f"job {allocation.job_id} is {state}: SLURM decides what becomes of it", flush=True)
        if slow and state in ("PENDING", "COMPLETING", "REQUEUED"):
            survive_requeue()
            print(exclude(allocation.raw_id, slow), flush=True)
        return 0
    if slow:
        survive_requeue()
    try:
        requeue(allocation.raw_id)
    except SlurmError as error:
        print(f"the job cannot be requeued ({error}): call the same `cait launch` again to go on", flush=True)
        return 75
    if slow:
        print(exclude(allocation.raw_id, slow), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
