"""The run that faults are done to, watched from outside by its files and by SLURM's queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cait_dist.tracking.metrics import attempt_metrics, read_metrics
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.checkpoint_files import Checkpoint, list_checkpoints
from launch.job_record import JobRecord

from .errors import ChaosError
from .ground import Ground, cait

POLL_SECONDS = 0.25
SHOWN = 2000


@dataclass(frozen=True)
class Order:
    """How the run is launched.

    Attributes:
        config: file of its configuration.
        settings: ``key=value`` that win over it.
        profile: name or file of the cluster profile.
        run_dir: as the cluster knows it.
    """

    config: Path
    settings: tuple[str, ...]
    profile: str
    run_dir: Path


class Subject:
    """One launched run."""

    def __init__(self, ground: Ground, order: Order) -> None:
        self.ground, self.order = ground, order
        self.run = RunDirectory(ground.seen(order.run_dir))

    def launch(self) -> None:
        """Put it into the queue; a run that ended early goes on.

        Raises:
            ChaosError: with what `cait launch` says
        """
        place = (f"name={self.order.run_dir.name}", f"runs_dir={self.order.run_dir.parent}")
        command = cait("launch", self.order.config, *place, *self.order.settings, "--cluster", self.order.profile)
        done = self.ground.run(command)
        if done.returncode:
            raise ChaosError(f"the run cannot be launched: {(done.stderr or done.stdout).strip()[-SHOWN:]}")

    @property
    def job_id(self) -> str:
        """Of the newest submission."""
        record = JobRecord.read(self.run.path)
        assert record is not None, "it was launched"
        return record.job_id

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Entries of run.json, oldest first."""
        found: list[dict[str, Any]] = self.run.read_record().get("attempts", []) if self.run.path.is_dir() else []
        return found

    @property
    def finished(self) -> bool:
        """Whether it is at its end."""
        attempts = self.attempts
        return bool(attempts) and attempts[-1].get("outcome") == "finished"

    @property
    def nodes(self) -> list[str]:
        """Of the newest attempt."""
        return list(self.attempts[-1]["nodes"])

    @property
    def processes(self) -> int:
        """Ranks of the newest attempt."""
        return int(self.attempts[-1]["processes"])

    def node_of(self, rank: int) -> str:
        """Where a rank of the newest attempt is: tasks fill one node after the other."""
        return self.nodes[rank * len(self.nodes) // self.processes]

    def newest_step(self) -> int:
        """The last step of the newest attempt; -1 before its first."""
        folders = self.run.attempts() if self.run.path.is_dir() else []
        rows = attempt_metrics(folders[-1]) if folders else []
        return int(rows[-1]["step"]) if rows else -1

    def steps_in_time(self) -> list[tuple[float, int]]:
        """When each step of each attempt was done, repeated ones too, in the order of attempts."""
        return [(row["time"], row["step"]) for folder in self.run.attempts() for row in attempt_metrics(folder)]

    def rows(self) -> list[dict[str, Any]]:
        """The metrics that count."""
        return read_metrics(self.run)

    def checkpoints(self) -> list[Checkpoint]:
        """The complete ones."""
        return list_checkpoints(self.run.checkpoints)

    def left_the_queue(self) -> bool:
        """Whether SLURM says that the job has ended. Where it gives no answer, it has not."""
        done = self.ground.run(["squeue", "--noheader", f"--jobs={self.job_id}", "--format=%i"], 30)
        return (done.returncode == 0 and not done.stdout.strip()) or "Invalid job id" in done.stderr

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll until something is so.

        Raises:
            ChaosError: if it takes too long, with the end of the job's log
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise ChaosError(
                    f"{what} did not come within {seconds:g} s; see {self.order.run_dir}\n{self.log_end()}"
                )
            time.sleep(POLL_SECONDS)

    def log_end(self) -> str:
        """The last lines of the job's log."""
        record = JobRecord.read(self.run.path)
        try:
            return record.log.read_text(errors="replace")[-SHOWN:] if record else ""
        except OSError:
            return ""

    def signal_rank(self, random: Random, number: int, which: str = "rank") -> bool:
        """Send a signal to a rank, or to one that loads its images, chosen at random; whether there was one."""
        rank = random.randrange(self.processes)
        words = ["-m", "launch.chaos.processes", str(self.order.run_dir), str(rank), str(int(number)), which]
        done = self.ground.on_node(self.node_of(rank), self.job_id, [_python(), *words])
        return done.returncode == 0


def _python() -> str:
    return cait()[0].removesuffix("cait") + "python"
