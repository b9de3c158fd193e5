"""Jobs of a single process, from a profile that is made for training on whole nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cait_dist.tracking.run_directory import read_json, timestamp, write_json

from .profile import ClusterProfile, load_profile
from .sbatch import bare_executor
from .slurm_commands import SlurmError, queue

JOBS = "jobs.json"


def one_task_profile(cluster: str, options: dict[str, Any], gpus: int) -> ClusterProfile:
    """The profile for one task: its share of a node, not what the site wants said for whole ones.

    Args:
        cluster: name or file of the profile
        options: of the command line, which win
        gpus: to ask for if the options say nothing and the nodes have any

    Raises:
        ConfigError: if something in the profile or the options is wrong
    """
    profile = load_profile(cluster, options)
    asked, memory = options.get("gpus_per_node"), options.get("memory_gb")
    # 0 is all of the node's memory; one task does with what the cluster gives by default.
    share = profile.memory_gb / profile.tasks if profile.memory_gb else None
    return profile.model_copy(
        update={
            "nodes": 1,
            "tasks_per_node": 1,
            "gpus_per_node": min(gpus, profile.gpus_per_node) if asked is None else asked,
            "memory_gb": share if memory is None else memory,
            "sbatch": {key: value for key, value in profile.sbatch.items() if key != "exclusive"},
        }
    )


def executor_of(
    folder: Path, profile: ClusterProfile, name: str, parallel: int | None = None, after: str | None = None
) -> Any:
    """A submitit executor for tasks of one process.

    Args:
        folder: for scripts, logs and code
        profile: from `one_task_profile`
        name: of the job
        parallel: most members of an array at a time
        after: id of the job whose end is waited for, whatever that is
    """
    executor = bare_executor(folder, profile, name, parallel)
    if after is not None:
        executor.update_parameters(slurm_dependency=f"afterany:{after}")
    return executor


def log_path(folder: Path, job_id: str) -> Path:
    """Where the output of a job, or of a member of an array, goes."""
    return folder / f"{job_id}_0_log.out"


def refuse_while_queued(folder: Path, what: str) -> None:
    """Two jobs would do the same work, with code in the same folder.

    Raises:
        SlurmError: if an earlier submission is still in the queue
    """
    jobs = (read_json(folder / JOBS) or {}).get("jobs", [])
    if not jobs:
        return
    live = sorted({job_id.partition("_")[0] for job_id in queue()} & set(jobs))
    if live:
        ids = ",".join(live)
        raise SlurmError(f"{what} is in the queue already: see `squeue --jobs={ids}`, or end it with `scancel {ids}`")


def note_jobs(folder: Path, job_ids: Sequence[str]) -> None:
    """Remember what was submitted."""
    write_json(folder / JOBS, {"jobs": [job_id.partition("_")[0] for job_id in job_ids], "submitted": timestamp()})
