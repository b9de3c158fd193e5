"""Drives `cait` on the head of a minicluster as a user does, and follows what becomes of the runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_command import CAIT, wait_for

from cait_dist.tracking.metrics import attempt_metrics
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from launch.job_record import JobRecord
from slurm.minicluster import MiniCluster

PROFILE = """
nodes: 2
gpus_per_node: {gpus}
tasks_per_node: {tasks}
memory_gb: 4
time: {time}
signal_seconds: {signal}
environment: {{OMP_NUM_THREADS: "1"}}
sbatch: {sbatch}
"""

SLOWED_DOWN = """
import importlib.abc, os, sys, time

class SlowSteps(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "cait_dist.training.trainer":
            sys.meta_path.remove(self)
            import cait_dist.training.step as step
            original = step.TrainingStep.run
            def run(self, batches):
                time.sleep(float(os.environ["TEST_STEP_SECONDS"]))
                return original(self, batches)
            step.TrainingStep.run = run
        return None

if "TEST_STEP_SECONDS" in os.environ:
    sys.meta_path.insert(0, SlowSteps())
"""


SLOW_NODE = """
import socket

class SlowNode(importlib.abc.MetaPathFinder):
    done = False

    def find_spec(self, name, path, target=None):
        if name == "cait_dist.training.trainer" and not self.done:
            self.done = True
            import cait_dist.training.step as step
            place, here, original = os.environ["TEST_SLOW_NODE"], socket.gethostname(), step.TrainingStep._lesson
            if os.environ["RANK"] == "1" and not os.path.exists(place):
                with open(place, "w") as file:
                    file.write(here)
            def lesson(self, batch):
                if os.path.exists(place) and open(place).read() == here:
                    time.sleep(float(os.environ["TEST_FORWARD_SECONDS"]))
                return original(self, batch)
            step.TrainingStep._lesson = lesson
        return None

if "TEST_SLOW_NODE" in os.environ and "RANK" in os.environ:
    sys.meta_path.insert(0, SlowNode())
"""


def slow_forward_passes(folder: Path, seconds: float) -> dict[str, str]:
    """Variables that make forward passes slow on the node where rank 1 first starts, and stay so; for slow steps."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SLOWED_DOWN + SLOW_NODE)
    return {
        "PYTHONPATH": str(folder),
        "TEST_SLOW_NODE": str(folder / "node"),
        "TEST_FORWARD_SECONDS": str(seconds),
    }


def slow_steps(folder: Path, seconds: float) -> dict[str, str]:
    """Variables that make every step wait: Python runs sitecustomize at its start, so no hook is in the product."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SLOWED_DOWN)
    return {"PYTHONPATH": str(folder), "TEST_STEP_SECONDS": str(seconds)}


def write_profile(
    folder: Path,
    name: str = "two",
    tasks: int = 1,
    time: str = "1:00:00",
    signal: int = 30,
    gpus: int = 0,
    **sbatch: Any,
) -> Path:
    """A cluster profile for the minicluster."""
    path = folder / f"{name}.yaml"
    path.write_text(PROFILE.format(tasks=tasks, time=time, signal=signal, gpus=gpus, sbatch=json.dumps(sbatch)))
    return path


def cait(
    cluster: MiniCluster, *arguments: str | Path, timeout: float = 300, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `cait …` on the head node."""
    command = [str(CAIT), *map(str, arguments)]
    return run(cluster, command, timeout=timeout, cwd=cwd, **environment)


def run(
    cluster: MiniCluster, command: list[str], timeout: float = 60, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command on the head node and return what it said."""
    return subprocess.run(
        cluster.command(command),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
        cwd=cwd,
    )


@dataclass
class ClusterRun:
    """A run that was launched."""

    cluster: MiniCluster
    run: RunDirectory

    @property
    def job_id(self) -> str:
        """Of its last submission."""
        record = JobRecord.read(self.run.path)
        assert record is not None, f"{self.run.path} was not submitted"
        return record.job_id

    @property
    def log(self) -> str:
        """The job's log so far."""
        record = JobRecord.read(self.run.path)
        return record.log.read_text(errors="replace") if record and record.log.exists() else ""

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Entries of run.json."""
        found: list[dict[str, Any]] = self.run.read_record()["attempts"]
        return found

    def facts(self) -> dict[str, str]:
        """What SLURM says of the job."""
        from launch.slurm_commands import parse_facts  # noqa: PLC0415

        return parse_facts(run(self.cluster, ["scontrol", "-o", "show", "job", self.job_id]).stdout)

    def wait_for_step(self, step: int, timeout: float = 400) -> None:
        """Wait until the newest attempt has done that step."""
        self._wait(lambda: [row for row in self._rows() if row["step"] >= step], f"step {step}", timeout)

    def wait_for_checkpoint(self, step: int, timeout: float = 240) -> None:
        """Wait until a checkpoint of that step or a later one is complete."""
        self._wait(
            lambda: [c for c in list_checkpoints(self.run.checkpoints) if c.step >= step], f"checkpoint {step}", timeout
        )

    def wait_until_finished(self, timeout: float = 700) -> None:
        """Wait for the end of the run."""
        self._wait(lambda: self.attempts and self.attempts[-1].get("outcome") == "finished", "the end", timeout)

    def wait_until_gone(self, timeout: float = 400) -> None:
        """Wait until the job has left the queue."""
        self._wait(lambda: self.job_id not in self._queue(), "the job's end", timeout)

    def wait_for_attempt(self, number: int, timeout: float = 240) -> None:
        """Wait until that attempt has begun."""
        self._wait(lambda: len(self.attempts) >= number, f"attempt {number}", timeout)

    def _queue(self) -> str:
        done = run(self.cluster, ["squeue", "--noheader", "--array", "--format=%i"])
        # No answer is no empty queue.
        return done.stdout if done.returncode == 0 else self.job_id

    def _rows(self) -> list[dict[str, Any]]:
        attempts = self.run.attempts()
        return attempt_metrics(attempts[-1]) if attempts else []

    def _wait(self, condition: Callable[[], Any], what: str, timeout: float) -> None:
        try:
            wait_for(condition, f"{what} of {self.run.path.name}", timeout)
        except AssertionError as error:
            queue = run(self.cluster, ["squeue"]).stdout
            raise AssertionError(f"{error}\n{queue}\n{self.log[-3000:]}") from None


def launch(
    cluster: MiniCluster, config: Path, profile: Path, *arguments: str, name: str, **environment: str
) -> ClusterRun:
    """`cait launch CONFIG name=NAME … --cluster PROFILE`; it must succeed."""
    done = cait(cluster, "launch", config, f"name={name}", PATIENCE, *arguments, "--cluster", profile, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Submitted job" in done.stdout
    return ClusterRun(cluster, RunDirectory(config.parent / "runs" / name))


def rank_process(run_dir: Path, rank: int) -> int:
    """The process number, on this machine, of one rank of a run."""

    def find() -> int | None:
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                if b"launch.job.rank" not in words or str(run_dir).encode() not in words:
                    continue
                if f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    return int(entry.name)
            except OSError:
                continue
        return None

    found: int = wait_for(find, f"rank {rank} of {run_dir.name}", timeout=300)
    return found


def environment_of(process: int) -> dict[str, str]:
    """The variables that a process on this machine was started with."""
    words = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def seconds_between(earlier: str, later: str) -> float:
    """From one timestamp of run.json to another."""
    parsed = [time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) for text in (earlier, later)]
    return parsed[1] - parsed[0]


PYTHON = sys.executable
PATIENCE = "training.collective_timeout=240"
"""Many ranks that start on few cores do not come together within a minute."""
