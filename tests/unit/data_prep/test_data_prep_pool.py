import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.pool import map_tasks


def square(task: int, _: Callable[[], bool]) -> int:
    return task * task


def interrupt_oneself(task: int, _: Callable[[], bool]) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return task


def fail_or_wait(task: Path | None, stopped: Callable[[], bool]) -> None:
    if task is None:
        raise ValueError("this one fails")
    while not stopped():
        time.sleep(0.01)
    task.touch()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_task_is_done_once(workers: int) -> None:
    assert sorted(map_tasks(square, range(12), workers)) == [(i, i * i) for i in range(12)]


def test_nothing_to_do_is_fine() -> None:
    assert list(map_tasks(square, [], 4)) == []


def test_workers_leave_ctrl_c_to_the_main_process() -> None:
    assert sorted(map_tasks(interrupt_oneself, range(3), 2)) == [(i, i) for i in range(3)]


def test_one_failure_stops_the_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this one fails"):
        list(map_tasks(fail_or_wait, [tmp_path / "stopped", None], 2))
    assert (tmp_path / "stopped").exists()
