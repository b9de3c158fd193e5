"""N steps straight are k steps, whatever stops them, and the rest: loss by loss, and at the end bit by bit."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from training_command import Training, evaluations, final_state, losses, start, train

from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.checkpoint_files import Checkpoint, list_checkpoints

pytestmark = pytest.mark.slow


Undisturbed = Callable[[int], RunDirectory]


def assert_same(run: RunDirectory, undisturbed: RunDirectory) -> None:
    assert losses(run) == losses(undisturbed)
    assert evaluations(run) == evaluations(undisturbed)
    assert final_state(run) == final_state(undisturbed)


def kill_a_rank(training: Training) -> None:
    training.wait_for_checkpoint(10)
    training.wait_for_step(11)
    training.rank(1).kill()
    status, _, err = training.finish()
    assert status == 1
    assert "rank 1 was ended by SIGKILL" in err
    assert list_checkpoints(training.run.checkpoints)[-1].step < 36


@pytest.mark.parametrize("stage", [1, 3])
def test_a_killed_rank_costs_the_steps_since_the_checkpoint_and_nothing_else(
    shared_config: Path, undisturbed: Undisturbed, stage: int
) -> None:
    arguments = (f"training.zero.stage={stage}", "--processes", "2")
    kill_a_rank(start(shared_config, *arguments, name=f"killed-{stage}"))
    assert_same(train(shared_config, *arguments, name=f"killed-{stage}"), undisturbed(stage))


def stop_with(training: Training, number: signal.Signals) -> None:
    """Ask it to stop once it has come further than it was."""
    after_step = losses(training.run)[-1][0] + 1
    training.wait_for_step(after_step)
    os.kill(training.process.pid, number)
    status, _, err = training.finish()
    assert status == 75, err
    record = training.run.read_record()["attempts"][-1]
    assert record["outcome"] == "stopped"
    assert list_checkpoints(training.run.checkpoints)[-1].step == record["step"] >= after_step


def damage(checkpoint: Checkpoint) -> None:
    victim = checkpoint.path / "rank-00001.safetensors"
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)


def test_a_run_that_is_interrupted_in_every_way_is_the_undisturbed_one(
    shared_config: Path, undisturbed: Undisturbed
) -> None:
    """A rank is killed; each stop signal saves between two steps; the last checkpoint is damaged, and passed over."""
    arguments = ("--processes", "2")
    kill_a_rank(start(shared_config, *arguments, name="interrupted"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        stop_with(start(shared_config, *arguments, name="interrupted"), number)
    run = RunDirectory(shared_config.parent / "runs" / "interrupted")
    newest = list_checkpoints(run.checkpoints)[-1]
    damage(newest)
    # Decoding in processes of its own changes nothing either.
    status, out, err = start(shared_config, *arguments, "data.workers=2", name="interrupted").finish()
    assert status == 0, err
    assert f"checkpoint {newest.path.name} is damaged" in out
    assert_same(run, undisturbed(2))
    assert len(run.attempts()) == 5


def test_a_dead_launcher_does_not_leave_ranks_behind(shared_config: Path) -> None:
    training = start(shared_config, "--processes", "2", name="orphaned")
    training.wait_for_step(2)
    ranks = [training.rank(0), training.rank(1)]
    training.process.kill()
    training.process.communicate()
    for rank in ranks:
        rank.wait(60)
    assert list_checkpoints(training.run.checkpoints), "the ranks saved before they ended"
    assert not training.run.is_live()


def test_a_finished_run_has_nothing_to_do(shared_config: Path, undisturbed: Undisturbed) -> None:
    run = undisturbed(2)
    again = start(shared_config, "training.zero.stage=2", "--processes", "2", name=run.path.name)
    status, out, _ = again.finish()
    assert status == 0
    assert "is finished" in out
    assert len(run.attempts()) == 1
