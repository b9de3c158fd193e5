"""A run on a disk that is full for a while, and then for good: it goes on, then ends with one line, and loses nothing.

The disk is real, and is filled to the last byte while two ranks train on it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disks import Ballast, small_disk
from training_command import Training, losses, start

from cait_dist.training.saving.checkpoint_files import list_checkpoints

pytestmark = pytest.mark.slow
ARGUMENTS = ("--processes", "2", "training.epochs=1.1", "training.checkpoint.keep=2")


@pytest.fixture
def config_on_small_disk(tiny_config: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    with small_disk(tmp_path / "disk", "24m") as disk:
        config = disk / "tiny.yaml"
        config.write_text(tiny_config.read_text().replace(str(tmp_path / "runs"), str(disk / "runs")))
        yield config, disk


def read_until(training: Training, text: str) -> str:
    """Rank 0's output up to the line with that text."""
    assert training.process.stdout is not None
    lines = []
    for line in training.process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"the run ended without {text!r}: {''.join(lines)}")


def test_a_full_disk_costs_neither_metrics_nor_the_last_checkpoint(config_on_small_disk: tuple[Path, Path]) -> None:
    config, disk = config_on_small_disk
    training = start(config, *ARGUMENTS)
    training.wait_for_checkpoint(10)  # which is written while training goes on
    ballast = Ballast(disk)
    metrics, well = "metrics.jsonl cannot be written (No space left on device): training goes on", "is written again"
    told = read_until(training, "could not be written")
    if metrics not in told:  # a file takes a few lines more on a full disk: what is left of its last page is its own
        told += read_until(training, metrics)
    ballast.lift()
    if told.count(well) < told.count(metrics):
        told += read_until(training, well)
    assert told.count(metrics) == told.count(well), "each trouble is told once, and its end"
    again = losses(training.run)
    assert [step for step, _ in again] == list(range(1, len(again) + 1)), "those of the full disk are there"

    ballast = Ballast(disk)
    record = training.run.record.read_bytes()
    status, out, err = training.finish()
    (line,) = err.strip().splitlines()[-1:]
    assert status == 2, err
    assert "Traceback" not in out + err
    assert "No space left on device" in out + line
    assert "make room there; the same command goes on from the last complete one" in out + line
    assert training.run.record.read_bytes() == record, "it is as it was, not half of it"
    kept = losses(training.run)
    last = list_checkpoints(training.run.checkpoints)[-1]
    assert last.damage() is None
    assert len(kept) >= last.step, "what belongs to the last checkpoint is all there"
    ballast.lift()

    training = start(config, *ARGUMENTS)
    status, out, err = training.finish()
    assert status == 0, out + err
    assert f"resumed from {last.path}" in out
    found = losses(training.run)
    assert found[: last.step] == kept[: last.step]
    assert [step for step, _ in found] == list(range(1, len(found) + 1))
    attempts = json.loads(training.run.record.read_text())["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["lost", "finished"]
