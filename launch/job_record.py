"""What is known of a submission: ``runs/NAME/launch/``.

::

    runs/NAME/launch/
      config.yaml        resolved when the job was submitted; what the job trains
      members.json       run directories of the job: one, or one for each member of an array
      job.json           which job, how many nodes, when
      cancelled          there when `cait cancel` asked for the end: the job does not come back
      refused.txt        why the job ended before it began to train
      code/              the code that the job runs
      12_0_log.out       the story of job 12, with the output of rank 0
      12_submission.sh   the script that SLURM got
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cait_dist.tracking.run_directory import read_json, write_json

MEMBERS, RECORD, CANCELLED, REFUSED = "members.json", "job.json", "cancelled", "refused.txt"

SIGNAL_SECONDS = 120
"""Warning before the time limit where nothing else is said."""


def launch_dir(run_dir: Path) -> Path:
    """Where a run keeps what concerns its job."""
    return run_dir / "launch"


@dataclass(frozen=True)
class JobRecord:
    """One submission of one run.

    Attributes:
        job_id: ``12``, or ``12_3`` for a member of an array.
        folder: where the job's script and log are.
        profile: name of the cluster profile.
        nodes: asked for.
        tasks_per_node: processes on each.
        time: limit, in SLURM's spelling.
        max_restarts: requeues after which the job is given up.
        submitted: UTC.
        code: version, commit and digest of the snapshot.
        signal_seconds: before the time limit, when the ranks save.
        checks: limits that nodes must keep, where the profile names any.
    """

    job_id: str
    folder: str
    profile: str
    nodes: int
    tasks_per_node: int
    time: str
    max_restarts: int
    submitted: str
    code: dict[str, str]
    signal_seconds: int = SIGNAL_SECONDS
    checks: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The job's own output, which rank 0 shares."""
        return Path(self.folder) / f"{self.job_id}_0_log.out"

    @property
    def array_id(self) -> str:
        """The number that all members of an array share."""
        return self.job_id.partition("_")[0]

    def write(self, run_dir: Path) -> None:
        """Keep it with the run."""
        write_json(launch_dir(run_dir) / RECORD, asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> JobRecord | None:
        """The record of a run's last submission; None if it was never submitted."""
        content: Any = read_json(launch_dir(run_dir) / RECORD)
        return cls(**content) if content else None


def write_members(folder: Path, run_dirs: list[Path]) -> None:
    """Say which runs a job has, in the order of the array."""
    write_json(folder / MEMBERS, [str(path) for path in run_dirs])


def member_of(folder: Path, index: int) -> Path:
    """Run directory of the array's member with that index; of the only one for a job that is no array."""
    return Path(json.loads((folder / MEMBERS).read_text())[index])
