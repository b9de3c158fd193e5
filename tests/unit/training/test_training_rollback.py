"""Which checkpoint is gone back to, and which data are skipped, time after time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cait_dist.config.training import RollbackConfig
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.ranks.process_group import World
from cait_dist.training.recovering.rollback import GivenUpError, Rollbacks
from cait_dist.training.recovering.trouble import TroubleError
from cait_dist.training.saving.checkpoint_files import CheckpointError, complete_checkpoint, list_checkpoints

BATCH = 16


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield World(0, 1, 0, torch.device("cpu"), dist.group.WORLD)
    dist.destroy_process_group()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.attempt(1).mkdir(parents=True)
    return run


def save(run: RunDirectory, *steps: int, **state: Any) -> None:
    for step in steps:
        final = run.checkpoints / f"step-{step:08d}"
        partial = final.with_name(final.name + ".partial")
        partial.mkdir(parents=True)
        complete_checkpoint(partial, final, {"step": step, "files": {}, "shapes": {}, **state})


def rollbacks(run: RunDirectory, world: World, at_most: int = 3) -> Rollbacks:
    return Rollbacks(run, 1, world, RollbackConfig(at_most=at_most), BATCH)


def trouble(began: int, until: int, sound: int) -> TroubleError:
    return TroubleError("the loss is ill", began, until, sound, {began: 9.0})


def there(run: RunDirectory) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(run.checkpoints)]


def reports(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.attempt(1) / "rollbacks.jsonl").read_text().splitlines()]


def test_it_is_the_newest_that_is_sound_and_later_ones_are_set_aside(run: RunDirectory, world: World) -> None:
    save(run, 5, 10, 15)
    done, said = rollbacks(run, world), list[str]()
    assert done.go_back(trouble(13, 17, 10), said.append).step == 10, "that of the last sound step itself counts"
    assert there(run) == [5, 10]
    assert [path.name[:23] for path in run.checkpoints.glob("abandoned-*")] == ["abandoned-step-00000015"]
    assert run.read_record()["rollbacks"] == [{"attempt": 1, "from": 17, "to": 10, "shift": 7}]
    assert said == ["the loss is ill: back to step 10, and past the data of 7 steps"]
    (report,) = reports(run)
    assert report["skipped"] == {"steps": 7, "positions": [10 * BATCH, 17 * BATCH]}
    assert (report["why"], report["began"], report["losses"]) == ("the loss is ill", 13, {"13": 9.0})


def test_shifts_add_up_and_hold_from_the_step_that_was_gone_back_to(run: RunDirectory, world: World) -> None:
    save(run, 5, 10)
    done = rollbacks(run, world)
    assert (done.total, done.shift(10**6)) == (0, 0)
    done.go_back(trouble(13, 15, 12), print)
    save(run, 15, 20)
    done.go_back(trouble(23, 25, 22), print)
    again = rollbacks(run, world)
    for known in (done, again):
        assert known.total == 2
        assert [known.shift(step) for step in (0, 9, 10, 19, 20, 100)] == [0, 0, 5, 5, 10, 10]
    assert reports(run)[1]["skipped"] == {"steps": 5, "positions": [25 * BATCH, 30 * BATCH]}


def test_where_not_one_step_went_well_an_older_one_is_tried_and_all_that_was_seen_is_skipped(
    run: RunDirectory, world: World
) -> None:
    save(run, 5, 10)
    done = rollbacks(run, world)
    done.go_back(trouble(13, 15, 12), print)
    assert done.go_back(trouble(11, 13, 10), print).step == 5
    assert [(entry["to"], entry["shift"]) for entry in run.read_record()["rollbacks"]] == [(10, 5), (5, 13)]
    assert done.shift(7) == done.shift(12) == 13, "step 10 is not gone through again with the shift from there"
    # One step that went well is reason enough to stay with it.
    save(run, 10)
    assert done.go_back(trouble(12, 13, 11), print).step == 10


def test_the_only_one_is_tried_again(run: RunDirectory, world: World) -> None:
    save(run, 10)
    done = rollbacks(run, world)
    for _ in range(2):
        assert done.go_back(trouble(11, 13, 10), print).step == 10
    assert [entry["shift"] for entry in run.read_record()["rollbacks"]] == [3, 6]


def test_it_is_given_up_when_it_was_often_enough_over_all_attempts(run: RunDirectory, world: World) -> None:
    save(run, 10)
    for _ in range(2):
        rollbacks(run, world, at_most=2).go_back(trouble(12, 13, 11), print)
    with pytest.raises(GivenUpError, match=r"gone back 2 times, as often as it may.*lower optimizer\.lr"):
        rollbacks(run, world, at_most=2).go_back(trouble(12, 13, 11), print)
    assert reports(run)[-1]["to"] is None
    assert "as often as it may" in reports(run)[-1]["reason"]
    assert there(run) == [10]
    assert len(run.read_record()["rollbacks"]) == 2, "what was given up is no way back"


def test_without_a_sound_checkpoint_it_is_given_up_and_none_is_set_aside(run: RunDirectory, world: World) -> None:
    save(run, 10)
    with pytest.raises(GivenUpError, match="no intact checkpoint from before"):
        rollbacks(run, world).go_back(trouble(10, 12, 9), print)
    assert there(run) == [10]


def test_data_that_were_skipped_are_not_used_again_because_a_record_was_lost(run: RunDirectory, world: World) -> None:
    save(run, 10)
    done = rollbacks(run, world)
    done.go_back(trouble(12, 13, 11), print)
    save(run, 20, data_shift=3)
    checkpoint = list_checkpoints(run.checkpoints)[-1]
    done.check(checkpoint)
    run.update_record(rollbacks=[])
    with pytest.raises(CheckpointError, match=r"skipped data that .*run\.json does not tell of"):
        rollbacks(run, world).check(checkpoint)
