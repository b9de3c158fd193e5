"""What SLURM says to a process about its job, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Allocation:
    """The job that this process belongs to.

    Attributes:
        job_id: ``12``, or ``12_3`` for a member of an array.
        raw_id: the number under which SLURM keeps this member alone.
        index: of the member; 0 for a job that is no array.
        restarts: how often SLURM has requeued the job.
        node_list: SLURM's short form.
        nodes: how many.
        tasks: processes of the job.
    """

    job_id: str
    raw_id: str
    index: int
    restarts: int
    node_list: str
    nodes: int
    tasks: int

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Allocation:
        """From the variables that SLURM sets."""
        raw, index = environment["SLURM_JOB_ID"], environment.get("SLURM_ARRAY_TASK_ID")
        nodes = int(environment.get("SLURM_JOB_NUM_NODES", 1))
        return cls(
            job_id=raw if index is None else f"{environment['SLURM_ARRAY_JOB_ID']}_{index}",
            raw_id=raw,
            index=int(index or 0),
            restarts=int(environment.get("SLURM_RESTART_COUNT", 0)),
            node_list=environment.get("SLURM_JOB_NODELIST", ""),
            nodes=nodes,
            tasks=int(environment.get("SLURM_NTASKS", nodes)),
        )


@dataclass(frozen=True)
class Task:
    """This process among the tasks of a step."""

    rank: int
    local_rank: int
    size: int
    local_size: int

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Task:
        """From the variables that `srun` sets."""
        size = int(environment.get("SLURM_NTASKS", 1))
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_JOB_NUM_NODES", 1)))
        return cls(
            rank=int(environment.get("SLURM_PROCID", 0)),
            local_rank=int(environment.get("SLURM_LOCALID", 0)),
            size=size,
            local_size=max(1, size // nodes),
        )
