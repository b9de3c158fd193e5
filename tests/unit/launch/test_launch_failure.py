"""The failure that came first is told from those it caused, from what ranks and their watchers wrote down."""

import json
import signal
from pathlib import Path

from launch.failure import first_failure, note_exit, noted_exits


def report(folder: Path, rank: int, time: float, text: str, explained: bool = False) -> None:
    facts = {
        "rank": rank,
        "time": time,
        "explained": explained,
        "message": text,
        "traceback": f"Traceback\n  x\n{text}\n",
    }
    (folder / f"rank-{rank}.error.json").write_text(json.dumps(facts))


def test_the_earliest_report_is_the_cause(tmp_path: Path) -> None:
    report(tmp_path, 0, 20.0, "RuntimeError: Connection closed by peer")
    report(tmp_path, 3, 10.0, "RuntimeError: boom at 0x7f12 in process 4711")
    found = first_failure({0: 1, 3: 1}, tmp_path)
    assert (found.rank, found.status, found.explained) == (3, 1, False)
    assert "rank 3 failed first" in found.message
    assert found.signature == "RuntimeError: boom at # in process #"


def test_a_killed_rank_comes_before_those_that_lost_it(tmp_path: Path) -> None:
    report(tmp_path, 0, 10.0, "RuntimeError: Connection closed by peer")
    found = first_failure({0: 1, 2: -signal.SIGKILL}, tmp_path)
    assert found.rank == 2
    assert "SIGKILL" in found.message
    assert found.signature is not None


def test_nccl_s_abort_is_a_consequence(tmp_path: Path) -> None:
    report(tmp_path, 1, 10.0, "ValueError: bad")
    assert first_failure({0: -signal.SIGABRT, 1: 1}, tmp_path).rank == 1


def test_losing_a_peer_is_no_error_of_one_s_own(tmp_path: Path) -> None:
    report(tmp_path, 0, 10.0, "RuntimeError: [pair.cc:553] Connection closed by peer [10.0.0.2]:46827")
    assert first_failure({0: 1}, tmp_path).signature is None


def test_what_the_user_can_mend_keeps_its_one_line(tmp_path: Path) -> None:
    report(tmp_path, 1, 10.0, "lower optimizer.lr", explained=True)
    found = first_failure({0: 1, 1: 2}, tmp_path)
    assert (found.message, found.status, found.explained) == ("rank 1: lower optimizer.lr", 2, True)


def test_exits_are_noted_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    note_exit(tmp_path, 5, -9, "n2")
    note_exit(tmp_path, 0, 1, "n1")
    assert list(noted_exits(tmp_path).items()) == [(5, -9), (0, 1)]
    assert first_failure(noted_exits(tmp_path), tmp_path).rank == 5
