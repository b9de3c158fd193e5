"""Which folders of checkpoints are leftovers, and which are somebody's loss; and renames that do not come out well.

The network file system is a stand-in: what it does to a rename is put in where the system is asked for one. A folder
that is shown under two names is real: it is mounted.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cait_dist.training.saving import checkpoint_files
from cait_dist.training.saving.checkpoint_files import (
    COMPLETE,
    complete_checkpoint,
    list_checkpoints,
    prune,
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


def partial_of(folder: Path, step: int) -> tuple[Path, Path]:
    final = folder / f"step-{step:08d}"
    partial = final.with_name(final.name + ".partial")
    partial.mkdir(parents=True)
    (partial / "rank-00000.safetensors").write_bytes(b"12345")
    return partial, final


STATE = {"step": 10, "shapes": {}, "files": {"rank-00000.safetensors": {"bytes": 5, "sha256": "0"}}}


@pytest.mark.parametrize("what", ["forgets it once", "does it and denies it", "shows it late", "shows half of it"])
def test_a_rename_counts_once_it_is_seen(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (partial, final), rename, asked = partial_of(tmp_path, 10), os.rename, list[float]()
    late = threading.Timer(0.3, lambda: rename(tmp_path / "not-shown", final))
    file = final / "rank-00000.safetensors"
    rest = threading.Timer(0.3, lambda: file.write_bytes(b"12345"))

    def network_rename(source: Path, target: Path) -> None:
        asked.append(time.monotonic())
        if what == "forgets it once" and len(asked) == 1:
            return
        if what == "shows it late":
            if len(asked) == 1:
                rename(source, tmp_path / "not-shown")
                late.start()
                return
            raise FileNotFoundError(source)
        rename(source, target)
        if what == "shows half of it":
            file.write_bytes(b"12")
            rest.start()
        if what == "does it and denies it":
            raise FileNotFoundError(source)

    monkeypatch.setattr(os, "rename", network_rename)
    monkeypatch.setattr(checkpoint_files, "LOOK_EVERY_SECONDS", 0.05)
    complete_checkpoint(partial, final, STATE)
    assert [checkpoint.path for checkpoint in list_checkpoints(tmp_path)] == [final]
    assert file.read_bytes() == b"12345"
    assert not partial.exists()
    assert asked


def test_a_rename_that_is_never_seen_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, final = partial_of(tmp_path, 10)
    monkeypatch.setattr(os, "rename", lambda *names: None)
    monkeypatch.setattr(checkpoint_files, "SEEN_WITHIN_SECONDS", 0.1)
    with pytest.raises(OSError, match="not complete under its name"):
        complete_checkpoint(partial, final, STATE)
    assert list_checkpoints(tmp_path) == [], "whole as it is, it has not its name"
    assert partial.exists()


def test_another_checkpoint_of_that_step_that_cannot_be_removed_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 10)
    partial, final = partial_of(tmp_path, 10)
    monkeypatch.setattr("shutil.rmtree", lambda *names, **options: None)
    monkeypatch.setattr(checkpoint_files, "SEEN_WITHIN_SECONDS", 0.1)
    with pytest.raises(OSError, match="not complete under its name"):
        complete_checkpoint(partial, final, STATE)


def test_a_complete_one_that_is_shown_under_its_old_name_too_is_one_and_is_not_deleted(tmp_path: Path) -> None:
    first, final = saved(tmp_path, 10), saved(tmp_path, 20)
    twin = final.with_name(final.name + ".partial")
    twin.mkdir()
    made = subprocess.run(["mount", "--bind", str(final), str(twin)], check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    try:
        assert [checkpoint.path for checkpoint in list_checkpoints(tmp_path)] == [first, final]
        prune(tmp_path, keep=2)
        remove_unfinished(tmp_path)
        assert [checkpoint.path for checkpoint in list_checkpoints(tmp_path)] == [first, final]
    finally:
        subprocess.run(["umount", str(twin)], check=True)
    (twin / "rank-00000.safetensors").write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == [first, final], "a leftover of the same step goes"
