"""Who is to blame when nothing goes on follows from what the ranks last said of themselves."""

from dataclasses import replace
from pathlib import Path

from cait_dist.training.watching.hang import Beat, explain_hang, first_hang, note_hang, read_beats, write_beat
from cait_dist.training.watching.heartbeat import hang_limit

WAITING = [Beat(rank, f"n{rank // 2 + 1}", 100 + rank, 118, "optimizer step", "", 900, 60.0, 1.0) for rank in range(6)]


def with_ranks(*changed: Beat) -> list[Beat]:
    """Six ranks on three nodes of which all others wait in the optimizer step."""
    return [next((beat for beat in changed if beat.rank == other.rank), other) for other in WAITING]


def test_a_silent_rank_is_named_with_its_node_and_its_last_place() -> None:
    silent = replace(WAITING[3], part="data", begun=897, age=62.0)
    hang = explain_hang(with_ranks(silent), 60, 7)
    assert hang.blamed == [3]
    assert hang.message == (
        "rank 3 on node n2 has not been heard of for 62 s, last in step 118, data;"
        " the others wait in step 118, optimizer step"
    )


def test_the_ranks_of_a_lost_node_are_named_together() -> None:
    lost = [replace(WAITING[rank], age=62.0) for rank in (2, 3)]
    hang = explain_hang(with_ranks(*lost), 60, 7)
    assert hang.blamed == [2, 3]
    assert hang.message.startswith("ranks 2-3 on node n2 have not been heard of for 62 s, last in step 118")


def test_a_rank_that_lives_but_has_begun_less_is_the_one_that_is_waited_for() -> None:
    hang = explain_hang(with_ranks(replace(WAITING[5], part="data", begun=897)), 60, 7)
    assert hang.blamed == [5]
    assert "rank 5 on node n3 does not get on: for 60 s in step 118, data;" in hang.message


def test_a_silent_rank_comes_before_one_that_is_behind() -> None:
    behind, silent = replace(WAITING[0], begun=1), replace(WAITING[4], age=62.0)
    assert explain_hang(with_ranks(behind, silent), 60, 7).blamed == [4]


def test_where_all_wait_alike_nobody_is_blamed() -> None:
    hang = explain_hang(WAITING, 60, 7)
    assert hang.blamed == []
    assert "look at the network" in hang.message


def test_a_rank_alone_has_only_itself_to_blame() -> None:
    assert explain_hang(WAITING[:1], 60, 7).message.startswith("rank 0 on node n1 does not get on: for 60 s")


def test_a_rank_that_never_wrote_has_never_been_heard_of(tmp_path: Path) -> None:
    (tmp_path / "heartbeat").mkdir()
    for beat in WAITING[:2]:
        write_beat(tmp_path / "heartbeat" / f"rank-{beat.rank}.json", beat)
    beats = read_beats(tmp_path, 3)
    assert [beat.step for beat in beats] == [118, 118, 0]
    assert explain_hang(beats, 60, 7).message.startswith("rank 2 has never been heard of")


def test_a_heartbeat_that_is_overwritten_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "heartbeat").mkdir()
    path = tmp_path / "heartbeat" / "rank-0.json"
    write_beat(path, replace(WAITING[0], exchange="a value from each rank"))
    size = path.stat().st_size
    write_beat(path, replace(WAITING[0], step=7))
    assert path.stat().st_size == size
    assert read_beats(tmp_path, 1)[0].step == 7


def test_a_finding_that_names_somebody_comes_before_an_earlier_one_that_does_not(tmp_path: Path) -> None:
    nobody, somebody = explain_hang(WAITING, 60, 7), explain_hang(with_ranks(replace(WAITING[5], begun=1)), 60, 7)
    note_hang(tmp_path / "rank-0.hang.json", replace(nobody, time=1.0))
    note_hang(tmp_path / "rank-1.hang.json", somebody)
    assert first_hang(tmp_path) == somebody


def test_without_a_setting_ranks_tell_before_their_exchange_ends() -> None:
    assert hang_limit(None, 600) == 450
    assert hang_limit(900, 600) == 900
