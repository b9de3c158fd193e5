"""A rank says for how long it may be silent; one that is silent for longer is ended, stopped or not."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cait_dist.training.watching.hang import Beat, first_hang, write_beat
from launch import lifeline as module
from launch.lifeline import Lifeline, end_if_silent


@pytest.fixture
def lifeline() -> Iterator[Lifeline]:
    with closing(Lifeline()) as made:
        yield made


def say(lifeline: Lifeline, seconds: float) -> None:
    os.write(lifeline.end, f"{seconds}\n".encode())


def test_before_the_first_word_there_is_no_limit(lifeline: Lifeline) -> None:
    assert not lifeline.silent()


def test_silence_counts_from_the_last_word(lifeline: Lifeline) -> None:
    say(lifeline, 100)
    say(lifeline, 0.1)
    assert not lifeline.silent()
    time.sleep(0.15)
    assert lifeline.silent()
    say(lifeline, 100)
    assert not lifeline.silent()


def test_time_in_which_nobody_looked_hardly_counts(lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch) -> None:
    # A job that is suspended stops with its watchers.
    monkeypatch.setattr(module, "SLICE", 0.05)
    say(lifeline, 0.2)
    lifeline.silent()
    time.sleep(0.5)
    assert not lifeline.silent()


def test_a_stopped_rank_is_ended_and_named(lifeline: Lifeline, tmp_path: Path) -> None:
    (tmp_path / "heartbeat").mkdir()
    write_beat(tmp_path / "heartbeat" / "rank-3.json", Beat(3, "n07", 4711, 118, "data"))
    process = subprocess.Popen(["sleep", "100"])
    os.kill(process.pid, signal.SIGSTOP)
    say(lifeline, 0.1)
    end_if_silent(lifeline, process, tmp_path, 3)
    assert process.poll() is None
    time.sleep(0.2)
    end_if_silent(lifeline, process, tmp_path, 3)
    assert process.wait(10) == -signal.SIGKILL
    hang = first_hang(tmp_path)
    assert hang is not None
    assert re.fullmatch(r"rank 3 on node n07 has not been heard of for \d+ s, last in step 118, data", hang.message)
