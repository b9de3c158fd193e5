"""The failure that came first is told from those it caused, from what ranks and their watchers wrote down."""

import json
import signal
from pathlib import Path

from cait_dist.training.watching.hang import Hang, note_hang
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


def test_a_rank_that_was_waited_for_in_vain_is_the_cause_though_it_was_then_killed(tmp_path: Path) -> None:
    note_hang(tmp_path / "rank-0.hang.json", Hang([2], "rank 2 on node n2 has not been heard of for 62 s", "hung", 9.0))
    report(tmp_path, 0, 10.0, "RuntimeError: Connection closed by peer")
    found = first_failure({2: -signal.SIGKILL, 0: 1}, tmp_path)
    assert (found.rank, found.status, found.signature) == (2, 1, "hung")
    assert found.message.startswith("rank 2 on node n2 has not been heard of for 62 s")
    assert "rank-*.stacks.txt" in found.message


def test_who_failed_or_was_killed_before_others_waited_in_vain_stays_the_cause(tmp_path: Path) -> None:
    note_hang(tmp_path / "rank-0.hang.json", Hang([2], "rank 2 is not heard of", "hung", 20.0))
    assert "SIGKILL" in first_failure({1: -signal.SIGKILL, 0: 1}, tmp_path).message
    report(tmp_path, 1, 10.0, "RuntimeError: boom")
    assert "boom" in first_failure({1: 1, 0: 1}, tmp_path).message
