"""N steps straight are k steps, whatever stops them, and the rest: loss by loss, and at the end bit by bit."""

import os
import signal
from pathlib import Path

import pytest
from training_command import Training, evaluations, final_state, losses, start, train

from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.checkpoint_files import list_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def straight(shared_config: Path) -> dict[int, RunDirectory]:
    """The undisturbed run on two processes at each stage."""
    return {
        stage: train(shared_config, f"training.zero.stage={stage}", "--processes", "2", name=f"straight-{stage}")
        for stage in (1, 2, 3)
    }


def assert_same(run: RunDirectory, undisturbed: RunDirectory) -> None:
    assert losses(run) == losses(undisturbed)
    assert evaluations(run) == evaluations(undisturbed)
    assert final_state(run) == final_state(undisturbed)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_rank_costs_the_steps_since_the_checkpoint_and_nothing_else(
    shared_config: Path, straight: dict[int, RunDirectory], stage: int
) -> None:
    arguments = (f"training.zero.stage={stage}", "--processes", "2")
    first = start(shared_config, *arguments, name=f"killed-{stage}")
    first.wait_for_checkpoint(10)
    first.wait_for_step(13)
    first.rank(1).kill()
    status, _, err = first.finish()
    assert status == 1
    assert "rank 1 was ended by SIGKILL" in err
    assert list_checkpoints(first.run.checkpoints)[-1].step < 36

    resumed = train(shared_config, *arguments, name=f"killed-{stage}")
    assert_same(resumed, straight[stage])


def stop_with(training: Training, number: signal.Signals, after_step: int) -> None:
    training.wait_for_step(after_step)
    os.kill(training.process.pid, number)
    status, _, err = training.finish()
    assert status == 75, err
    record = training.run.read_record()["attempts"][-1]
    assert record["outcome"] == "stopped"
    assert list_checkpoints(training.run.checkpoints)[-1].step == record["step"] >= after_step


def test_every_stop_signal_saves_between_two_steps_and_the_same_command_goes_on(
    shared_config: Path, straight: dict[int, RunDirectory]
) -> None:
    for number, after_step in ((signal.SIGINT, 3), (signal.SIGTERM, 8), (signal.SIGUSR2, 12)):
        stop_with(start(shared_config, "--processes", "2", name="stopped"), number, after_step)
    finished = train(shared_config, "--processes", "2", name="stopped")
    assert_same(finished, straight[2])
    assert len(finished.attempts()) == 4


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


def test_a_damaged_checkpoint_is_passed_over_with_a_loud_message(
    shared_config: Path, straight: dict[int, RunDirectory]
) -> None:
    first = start(shared_config, "--processes", "2", name="damaged")
    first.wait_for_checkpoint(20)
    first.rank(0).kill()
    first.finish()
    newest = list_checkpoints(first.run.checkpoints)[-1]
    victim = newest.path / "rank-00001.safetensors"
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)

    again = start(shared_config, "--processes", "2", name="damaged")
    status, out, err = again.finish()
    assert status == 0, err
    assert f"checkpoint {newest.path.name} is damaged" in out
    assert_same(again.run, straight[2])


def test_decoding_in_worker_processes_changes_nothing(shared_config: Path, straight: dict[int, RunDirectory]) -> None:
    assert_same(train(shared_config, "data.workers=2", "--processes", "2", name="workers"), straight[2])


def test_a_finished_run_has_nothing_to_do(shared_config: Path, straight: dict[int, RunDirectory]) -> None:
    again = start(shared_config, "training.zero.stage=2", "--processes", "2", name="straight-2")
    status, out, _ = again.finish()
    assert status == 0
    assert "is finished" in out
    assert len(straight[2].attempts()) == 1
