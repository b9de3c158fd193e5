"""`cait doctor --cluster PROFILE`: the check of a training job, as a job of its own.

For a look at nodes before a long run, or after an incident. It takes a minute of the allocation that a run would get.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cait_dist.tracking.run_directory import timestamp
from launch.job.allocation import Allocation, Task
from launch.job.begin import free_port
from launch.job.task import rank_environment
from launch.limits import check_partition
from launch.profile import ClusterProfile
from launch.sbatch import code_folder, environment_lines, joint_executor, python, script_of
from launch.slurm_commands import hostnames, queue
from launch.snapshot import snapshot_code
from launch.submit import check_script, submit_jobs, watch_start

POLL_SECONDS = 0.5
STATUS = "status"


class CheckTask:
    """One rank of the check; the ranks find each other as those of a training job do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self) -> None:
        """Check; rank 0 leaves the outcome in the folder."""
        from .cluster import check_program  # noqa: PLC0415 - loads torch

        task = Task.read()
        os.environ |= {**rank_environment(task), "RANK": str(task.rank)}
        began = time.monotonic()
        status = check_program(self._folder)
        if task.rank == 0:
            print(f"joined and checked {task.size} ranks in {time.monotonic() - began:.1f} s", flush=True)
            (self._folder / STATUS).write_text(str(status))
            os._exit(status)
        # All know that nodes are refused; the first to say so by its status would end rank 0, which tells why.
        os._exit(0)

    def checkpoint(self) -> Any:
        """For submitit, should the job be preempted: the same again."""
        import submitit  # noqa: PLC0415

        return submitit.helpers.DelayedSubmission(self)


def submit_check(profile: ClusterProfile, runs_dir: Path) -> tuple[str, Path]:
    """Submit a check of as many nodes as the profile says; returns the job's id and the folder of its log.

    Raises:
        SlurmError: if SLURM refuses it
    """
    folder = runs_dir.absolute() / ".doctor" / timestamp().replace(":", "")
    check_partition(profile)
    executor = joint_executor(folder, profile, "cait-doctor")
    meet = f'eval "$({python(profile)} -m launch.check.job)"'
    executor.update_parameters(slurm_setup=[*environment_lines(profile, folder), meet])
    check_script(script_of(executor))
    folder.mkdir(parents=True)
    snapshot_code(code_folder(folder))
    job_id = submit_jobs(executor, [CheckTask(folder)])[0]
    watch_start(job_id, folder)
    return job_id, folder


def follow(job_id: str, folder: Path) -> Iterator[str]:
    """The log of a check until its job is gone."""
    log, gone = folder / f"{job_id}_0_log.out", False
    place = 0
    while True:
        gone = gone or job_id not in queue()
        text = log.read_text(errors="replace") if log.exists() else ""
        yield text[place:]
        place = len(text)
        if gone:
            return
        time.sleep(POLL_SECONDS)


def outcome(folder: Path) -> int:
    """0: the nodes are fit, 1: they are not, or the check did not come to an end."""
    found = folder / STATUS
    return int(found.read_text()) if found.exists() else 1


def meeting_place() -> list[str]:
    """Shell lines that name the rendezvous, for the job's script on its first node."""
    allocation = Allocation.read()
    host = (hostnames(allocation.node_list) or [socket.gethostname()])[0]
    port = free_port(int(allocation.raw_id) * 7 + allocation.restarts)
    return [f"export MASTER_ADDR={host}", f"export MASTER_PORT={port}"]


if __name__ == "__main__":
    print("\n".join(meeting_place()))
