"""`cait chaos` as a user calls it: a fault is done to a real job, and what comes of it is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from training_command import CAIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def chaos(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(CAIT), "chaos", "checkpoint-torn", "--times", "1", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)


@pytest.mark.usefixtures("_slurm")
def test_a_torn_checkpoint_costs_steps_and_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "chaos"
    done = chaos(out, "--set", "training.epochs=1.2", "--set", "training.checkpoint.every_steps=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checkpoint-torn: the same result as undisturbed" in done.stdout
    (result,) = json.loads((out / "report.json").read_text())["results"]
    (strike,) = result["strikes"]
    assert strike["attempts"] >= 1, "the rank that was killed ended an attempt"
    assert strike["repeated"] >= 5, "the newest checkpoint could not be used"
    assert strike["by_itself"]
    assert result["differences"] == [{"steps": 108, "loss": 0.0, "final_loss": 0.0, "same_weights": True}]
    torn = list((out / "runs").glob("checkpoint-torn-1/launch/*_0_log.out"))
    assert any("is damaged" in path.read_text() for path in torn), "and said why"
    assert "| checkpoint-torn | 1 | 1 |" in (out / "report.md").read_text()

    # A second call finds everything done, and touches nothing.
    again = chaos(out)
    assert again.returncode == 0
    assert "checkpoint-torn:" not in again.stdout
    assert "| checkpoint-torn | 1 | 1 |" in again.stdout
    assert not list((out / "cluster").glob("run/*")), "the cluster is gone"
