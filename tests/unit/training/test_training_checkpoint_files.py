"""Which folders of checkpoints are leftovers, and which are somebody's loss."""

from pathlib import Path

from cait_dist.training.checkpoint_files import (
    COMPLETE,
    complete_checkpoint,
    list_checkpoints,
    remove_unfinished,
    unreadable_checkpoints,
)


def saved(folder: Path, step: int) -> Path:
    partial, final = folder / f"step-{step:08d}.partial", folder / f"step-{step:08d}"
    partial.mkdir(parents=True)
    complete_checkpoint(partial, final, {"step": step, "files": {}, "shapes": {}})
    return final


def test_only_what_a_crash_may_have_left_is_deleted(tmp_path: Path) -> None:
    old, whole, damaged = (saved(tmp_path, step) for step in (10, 20, 30))
    for folder in (old, damaged):
        (folder / COMPLETE).unlink()
    (tmp_path / "step-00000040.partial").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == [whole, damaged], "an old one may be half-deleted, the newest never is"
    assert [checkpoint.path for checkpoint in list_checkpoints(tmp_path)] == [whole]
    assert unreadable_checkpoints(tmp_path) == [damaged]


def test_the_only_checkpoint_is_kept_without_its_mark(tmp_path: Path) -> None:
    only = saved(tmp_path, 10)
    (only / COMPLETE).unlink()
    remove_unfinished(tmp_path)
    assert unreadable_checkpoints(tmp_path) == [only]


def test_a_damaged_one_makes_room_when_its_step_is_saved_again(tmp_path: Path) -> None:
    (saved(tmp_path, 10) / COMPLETE).unlink()
    assert [checkpoint.path for checkpoint in list_checkpoints(saved(tmp_path, 10).parent)] == [
        tmp_path / "step-00000010"
    ]
