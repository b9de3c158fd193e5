"""Drives `cait train` as a user does, and finds its ranks to do them harm."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.checkpoint_files import list_checkpoints

CAIT = Path(sys.executable).with_name("cait")
TIMEOUT = 240


@dataclass
class Training:
    """A running `cait train`."""

    process: "subprocess.Popen[str]"
    run: RunDirectory

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end: status, output, errors."""
        out, err = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, out, err

    def rank(self, number: int) -> psutil.Process:
        """The process of one rank."""
        return wait_for(lambda: self._find(number), f"rank {number}")

    def wait_for_checkpoint(self, step: int) -> None:
        """Wait until a checkpoint of that step or a later one is complete."""
        wait_for(lambda: [c for c in list_checkpoints(self.run.checkpoints) if c.step >= step], f"checkpoint {step}")

    def wait_for_step(self, step: int) -> None:
        """Wait until that step is in the metrics of this attempt."""
        wait_for(lambda: [row for row in read_metrics(self.run) if row["step"] >= step], f"step {step}")

    def _find(self, number: int) -> psutil.Process | None:
        for child in psutil.Process(self.process.pid).children():
            if child.environ().get("RANK") == str(number):
                return child
        return None


def start(config: Path, *arguments: str, name: str = "tiny", **environment: str) -> Training:
    """Start `cait train CONFIG name=NAME …`."""
    import os  # noqa: PLC0415

    process = subprocess.Popen(
        [str(CAIT), "train", str(config), f"name={name}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    return Training(process, RunDirectory(config.parent / "runs" / name))


def train(config: Path, *arguments: str, name: str = "tiny") -> RunDirectory:
    """Run `cait train` to its successful end."""
    training = start(config, *arguments, name=name)
    status, out, err = training.finish()
    assert status == 0, f"status {status}\n{out}\n{err}"
    return training.run


def losses(run: RunDirectory) -> list[tuple[int, float]]:
    """Training loss of every step."""
    return series(read_metrics(run), "train/loss")


def evaluations(run: RunDirectory) -> list[tuple[int, float]]:
    """Evaluation losses of weights and average, in order."""
    rows = read_metrics(run)
    return sorted(series(rows, "val/loss") + series(rows, "val_ema/loss"))


def final_state(run: RunDirectory) -> dict[str, str]:
    """SHA-256 of every rank's file in the newest checkpoint: weights, moments and average, bit by bit."""
    state: dict[str, Any] = list_checkpoints(run.checkpoints)[-1].state
    return {name: entry["sha256"] for name, entry in state["files"].items()}


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 120) -> Any:
    """Poll until the condition holds and return its value."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            # A machine that stood still did nothing meanwhile, and may have done it since.
            if found := condition():
                break
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.02)
    return found
