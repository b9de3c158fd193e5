"""Between a task and its rank: signals wait until they are understood, and the clock stops what SLURM does not."""

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from launch.job import task
from launch.ranks import start_rank

LATE = """
import signal, sys, time
time.sleep(0.4)
from cait_dist.training.preempt import StopRequest
stop = StopRequest().listen()
time.sleep(0.1)
sys.exit(75 if stop else 1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_that_comes_too_early_is_kept_for_the_rank(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "late.py").write_text(
        LATE.replace("time.sleep(0.4)", "while not signal.sigpending(): time.sleep(0.01)")
    )
    attempt = tmp_path / "attempt-1"
    attempt.mkdir()
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    with ExitStack() as stack:
        rank = start_rank("late", attempt, 1, {"PYTHONPATH": paths}, stack)
        time.sleep(0.1)
        rank.send_signal(number)
        assert rank.wait(30) == 75, (attempt / "rank-1.log").read_text()


def test_the_parent_s_own_signals_are_not_held_back(tmp_path: Path) -> None:
    attempt = tmp_path / "attempt-1"
    attempt.mkdir()
    with ExitStack() as stack:
        start_rank("this", attempt, 1, {}, stack).wait(30)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_task_stops_its_rank_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late.py").write_text(LATE.replace("time.sleep(0.1)", "time.sleep(1.5)"))
    attempt = tmp_path / "attempt-1"
    attempt.mkdir()
    monkeypatch.setenv("CAIT_STOP_AT", str(time.time() + 1))
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    with ExitStack() as stack:
        assert task._wait(start_rank("late", attempt, 1, {"PYTHONPATH": paths}, stack)) == 75
