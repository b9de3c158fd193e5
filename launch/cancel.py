"""`cait cancel`: end the jobs of a run or a sweep, in good order."""

from pathlib import Path

from .job_record import CANCELLED, JobRecord, launch_dir
from .slurm_commands import cancel, queue
from .status import find_runs


def cancel_runs(place: Path, now: bool = False) -> list[str]:
    """Ask the jobs of a run, or of all runs in a folder, to end; returns a line for each.

    A running job saves and leaves at the end of its step. One that waits is taken out of the queue.

    Args:
        place: run directory, or a folder of runs
        now: do not wait for the save (SLURM still sends SIGTERM first)

    Raises:
        RunDirectoryError: if there is no run
        SlurmError: if SLURM does not answer
    """
    records = {run: record for run in find_runs(place) if (record := JobRecord.read(run))}
    jobs = queue() if records else {}
    alive = {run: jobs[record.job_id] for run, record in records.items() if record.job_id in jobs}
    for run in alive:
        # First: a job that is about to be requeued must find it.
        (launch_dir(run) / CANCELLED).touch()
    gentle = {run: job for run, job in alive.items() if job.state == "RUNNING" and not now}
    cancel((job.job_id for job in gentle.values()), signal="USR2")
    cancel(job.job_id for run, job in alive.items() if run not in gentle)
    lines = [
        f"{run}: job {job.job_id} {'saves and ends' if run in gentle else 'is cancelled'}" for run, job in alive.items()
    ]
    return lines or [f"{place}: no job in the queue"]
