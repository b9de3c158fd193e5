"""Saving does not hold training up, and what cannot be written costs that one checkpoint and nothing else.

A model whose checkpoint is some tens of megabytes, on two ranks; the full disk is a real file system without room.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("saver_program.py")
ROOM = "400m"
"""For some checkpoints of the program's model; what is left is filled when it has to be."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that can be filled."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system to fill")
    place = tmp_path_factory.mktemp("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def found(shared_config: Path, small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("saver")
    arguments = {"config": str(shared_config), "folder": str(folder), "small": str(small_disk)}
    result: dict[str, Any] = run_on_ranks(PROGRAM, 2, arguments, folder / "out.json")
    return result


def test_training_waits_for_a_tenth_of_the_time_that_a_save_takes(found: dict[str, Any]) -> None:
    medians = found["stalls"]["medians"]
    ratio = medians["asynchronous"] / medians["synchronous"]
    print(f"training waits for {100 * ratio:.1f} % of a save")
    assert ratio <= 0.1


def test_what_is_saved_is_what_was_there_when_the_save_began(found: dict[str, Any]) -> None:
    digests = found["stalls"]["digests"]
    assert len(digests["synchronous"]) == 5
    assert digests["asynchronous"] == digests["synchronous"]
    assert len({digest for step in digests["synchronous"] for digest in step}) == 10, "each step differs"


def test_a_full_disk_costs_that_checkpoint_and_training_goes_on(found: dict[str, Any]) -> None:
    full = found["full_disk"]
    assert full["passed"] == [1, 2, 3], "a save that fails is no error while others come"
    assert len(full["told"]) == 1
    assert "checkpoint of step 2 could not be written" in full["told"][0]
    assert "No space left on device" in full["told"][0]


def test_a_full_disk_at_the_end_is_an_error_and_the_last_checkpoint_is_intact(found: dict[str, Any]) -> None:
    full = found["full_disk"]
    assert len(full["error"]) == 1
    assert "checkpoint of step 4" in full["error"][0]
    assert "make room" in full["error"][0]
    assert full["intact"] == [3]
    assert full["left"] == ["step-00000003"], "nothing half-written is left"


def test_a_disk_that_stays_full_ends_the_run(found: dict[str, Any]) -> None:
    assert [line.split(":")[0] for line in found["too_many_failures"]] == ["CheckpointError"]
    assert "checkpoint of step 3" in found["too_many_failures"][0]


def test_a_rename_that_is_forgotten_costs_that_checkpoint_and_no_older_one(found: dict[str, Any]) -> None:
    forgotten = found["forgotten_rename"]
    assert forgotten["there"] == [[1], [2], [2], [4]]
    assert len(forgotten["told"]) == 1
    assert "checkpoint of step 3 could not be written" in forgotten["told"][0]
    assert "not complete under its name" in forgotten["told"][0]
    assert forgotten["left"] == ["step-00000004"]


def test_milestones_stay_and_of_the_others_the_newest(found: dict[str, Any]) -> None:
    assert found["milestones"] == [3, 6, 7]


def test_an_attempt_that_is_superseded_while_it_writes_completes_nothing(found: dict[str, Any]) -> None:
    assert found["superseded"] == {"error": "a later attempt has begun", "complete": 0}
