"""What a user sees when a rank fails: the first failure, on the console, whichever rank it was."""

from pathlib import Path

import pytest
from faulty_ranks import raise_in_fourth_step
from training_command import evaluations, start

pytestmark = pytest.mark.slow


def test_the_first_failing_rank_s_traceback_is_shown(tiny_config: Path, tmp_path: Path) -> None:
    training = start(tiny_config, "--processes", "2", **raise_in_fourth_step(tmp_path))
    status, _, err = training.finish()
    assert status == 1
    assert "rank 1 failed first:" in err
    assert "RuntimeError: the fault that the test has put in" in err
    assert "Connection" not in err.partition("rank 1 failed first")[0]
    assert training.run.read_record()["attempts"][0]["outcome"] == "failed"


STOPPED_AT_THE_END = """
import os, signal
if "RANK" in os.environ:
    import cait_dist.training.step as step
    original, calls = step.TrainingStep.run, []
    def run(self, batches):
        calls.append(1)
        if len(calls) == 35:  # seen when the last step begins
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batches)
    step.TrainingStep.run = run
"""


def test_a_run_that_is_asked_to_stop_in_its_last_step_is_finished_and_evaluated(
    tiny_config: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STOPPED_AT_THE_END)
    training = start(tiny_config, "--processes", "1", PYTHONPATH=str(tmp_path))
    status, out, err = training.finish()
    assert status == 0, out + err
    assert training.run.read_record()["attempts"][0]["outcome"] == "finished"
    assert {step for step, _ in evaluations(training.run)} == {14, 27, 36}


def test_an_attempt_that_another_has_followed_saves_nothing_more(tiny_config: Path) -> None:
    # As on a node that the scheduler lost sight of, while it gave the run new ones.
    training = start(tiny_config, "--processes", "2", "training.checkpoint.every_steps=4", "training.epochs=4")
    training.wait_for_checkpoint(4)
    training.run.attempt(2).mkdir()
    record = training.run.record.read_text()
    kept = {path.name for path in training.run.checkpoints.glob("step-*")}
    status, _, err = training.finish()
    assert status == 2
    assert "attempt 2 at" in err
    assert "has begun: this one ends" in err
    later = {path.name for path in training.run.checkpoints.glob("step-*")} - kept
    assert len(later) <= 1, "the save that was under way"
    assert training.run.record.read_text() == record, "the record belongs to the successor"


def test_a_corrupt_image_is_named_with_its_place(tiny_config: Path, digits: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_with_corrupt_images(digits, copy)
    status, _, err = start(tiny_config, "--processes", "2", f"data.path={copy}").finish()
    assert status == 2
    assert "cait verify" in err
    assert str(copy) in err
    assert "Traceback" not in err


def copy_with_corrupt_images(source: Path, copy: Path) -> None:
    """Zero the content of every image of one shard; all sizes stay."""
    import shutil  # noqa: PLC0415

    from cait_dist.data.reader_webdataset import WebDatasetReader  # noqa: PLC0415

    shutil.copytree(source, copy)
    reader = WebDatasetReader(copy / "train")
    shard = sorted((copy / "train").glob("*.tar"))[0]
    content = bytearray(shard.read_bytes())
    for index in range(reader.shard_sizes[0]):
        image = reader.read(index)
        at = bytes(content).index(image)
        content[at + 2 : at + len(image)] = bytes(len(image) - 2)
    shard.write_bytes(content)
