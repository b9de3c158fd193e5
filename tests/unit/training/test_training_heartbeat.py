"""A rank tells when nothing goes on, takes it back when it does after all, and leaves it where that is why it ends."""

import time
from pathlib import Path

import pytest

from cait_dist.training.watching.activity import ENDING, activity, begin_step, enter, exchanging, go_on
from cait_dist.training.watching.hang import first_hang, read_beats
from cait_dist.training.watching.heartbeat import PATIENCE, Heartbeat

LIMIT = 100.0


def test_what_was_found_is_taken_back_when_it_goes_on_and_stays_when_it_ends(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 1, LIMIT) as heartbeat:
        begin_step(117)
        begin_step(118)
        heartbeat._look(LIMIT + 1)
        found = first_hang(tmp_path)
        assert found is not None
        assert found.message.endswith("for 101 s in step 118, data")
        heartbeat._look(0.0)
        assert first_hang(tmp_path) is None
        heartbeat._look(LIMIT + 1)
        enter(ENDING)
        heartbeat._look(0.0)
    assert first_hang(tmp_path) is not None
    assert "test_training_heartbeat.py" in (tmp_path / "rank-0.stacks.txt").read_text()


def test_the_first_step_has_longer_and_leaves_no_trace(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 1, LIMIT) as heartbeat:
        begin_step(1)
        heartbeat._look(PATIENCE * LIMIT - 1)
        assert read_beats(tmp_path, 1)[0].part == "starting", "the next beat is seconds away"
    assert first_hang(tmp_path) is None
    assert not (tmp_path / "rank-0.stacks.txt").exists()


def test_only_an_exchange_that_timed_out_is_explained(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 2, LIMIT) as heartbeat:
        heartbeat.explain(ValueError("the server timed out"))
        assert first_hang(tmp_path) is None
        heartbeat.explain(RuntimeError("[gloo] Timed out waiting 15000ms for recv operation to complete"))
    found = first_hang(tmp_path)
    assert found is not None
    assert found.message.startswith("rank 1 has never been heard of")


def fail_in_an_exchange() -> None:
    with exchanging("a barrier"):
        time.sleep(0.01)
        raise RuntimeError


def test_an_exchange_that_fails_is_no_progress() -> None:
    begin_step(1)
    with pytest.raises(RuntimeError):
        fail_in_an_exchange()
    assert time.monotonic() - activity.progress >= 0.01
    assert activity.exchange == "a barrier"
    before = activity.progress
    go_on()
    assert activity.progress > before
