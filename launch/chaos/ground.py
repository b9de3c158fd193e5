"""Where faults are done: a small cluster of this project's own, or the user's cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from slurm.minicluster import MiniCluster

Done = subprocess.CompletedProcess[str]


class Ground(Protocol):
    """A cluster as the faults see it."""

    @property
    def mini(self) -> MiniCluster | None:
        """The small cluster, whose machines may be harmed; None on the user's own."""

    def run(self, command: Sequence[str], seconds: float = 120) -> Done:
        """Run a command where one submits."""

    def on_node(self, node: str, job_id: str, command: Sequence[str]) -> Done:
        """Run a command on a node of a job."""

    def seen(self, path: Path) -> Path:
        """A path of the cluster's as this process has to write it."""


class MiniGround:
    """A small cluster on this machine."""

    def __init__(self, cluster: MiniCluster) -> None:
        self.mini = cluster

    def run(self, command: Sequence[str], seconds: float = 120) -> Done:
        """Run a command on the head."""
        return _run(self.mini.command(list(command)), seconds)

    def on_node(self, node: str, job_id: str, command: Sequence[str]) -> Done:
        """Run a command on a node, past SLURM: it works also where SLURM is what is broken."""
        return _run(self.mini.command(list(command), node), 60)

    def seen(self, path: Path) -> Path:
        """A file on a disk that exists in the cluster only, too."""
        return self.mini.seen(path)


class SlurmGround:
    """The cluster that this machine submits to."""

    mini = None

    def run(self, command: Sequence[str], seconds: float = 120) -> Done:
        """Run a command here."""
        return _run(list(command), seconds)

    def on_node(self, node: str, job_id: str, command: Sequence[str]) -> Done:
        """Run a command on a node, as one more step of the job."""
        step = ["srun", f"--jobid={job_id}", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={node}"]
        return _run([*step, *command], 120)

    def seen(self, path: Path) -> Path:
        """The same: the folder is shared."""
        return path


def cait(*arguments: str | Path) -> list[str]:
    """The words that run this very `cait`."""
    return [str(Path(sys.executable).with_name("cait")), *map(str, arguments)]


def _run(command: list[str], seconds: float) -> Done:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environment,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        # SLURM may be what is broken just now.
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {seconds:g} s")
