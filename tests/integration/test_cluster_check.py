"""The check at a job's start, on real ranks: one of four is made ill, all are told which one.

Four ranks of one machine play four nodes (or two); messages, files and clocks are real. There is no GPU here: what a
GPU adds to the check is judged in tests/unit/launch, and was not run.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.local import rank_environment
from tests.ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("cluster_check_program.py")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    place = tmp_path_factory.mktemp("cluster")
    folder, apart = place / "run", place / "another"
    folder.mkdir()
    apart.mkdir()
    (folder / "a-file").touch()
    found = run_on_ranks(PROGRAM, 4, {"folder": str(folder), "apart": str(apart)}, place / "out.json")
    assert [path.name for path in folder.iterdir()] == ["a-file"], "the check left files behind"
    assert list(apart.iterdir()) == []
    return dict(found)


def refusal(told: list[dict[str, Any]]) -> str:
    """What all ranks were told, which must be the same."""
    texts = {rank["error"] for rank in told}
    assert len(texts) == 1
    return texts.pop() or ""


def warnings(told: list[dict[str, Any]]) -> str:
    """What rank 0 said; the others must be silent."""
    assert not any(rank["said"] for rank in told[1:])
    return "\n".join(told[0]["said"])


@pytest.mark.parametrize("case", ["healthy", "two by two"])
def test_healthy_nodes_pass_soon_and_no_random_number_is_used_up(results: dict[str, Any], case: str) -> None:
    assert refusal(results[case]) == ""
    assert max(rank["seconds"] for rank in results[case]) < 10
    assert all(rank["random_numbers_kept"] for rank in results[case])


def test_ranks_that_share_cpus_are_told(results: dict[str, Any]) -> None:
    shared = len(os.sched_getaffinity(0)) < 2
    assert ("n0: its 2 ranks share 1 CPU" in warnings(results["two by two"])) == shared
    assert "share" not in warnings(results["healthy"])


def test_a_slow_rank_is_named_and_on_cpus_only_warned_about(results: dict[str, Any]) -> None:
    assert refusal(results["slow"]) == ""
    assert "n2: the matrix product of rank 2 takes" in warnings(results["slow"])


def test_a_single_wrong_element_is_refused(results: dict[str, Any]) -> None:
    assert "n1: rank 1 computes wrong results: leave n1 out" in refusal(results["wrong"])
    assert refusal(results["wrong"]).count("\n") == 1


def test_a_rank_that_cannot_compute_is_refused_and_no_message_awaited(results: dict[str, Any]) -> None:
    assert "n1: rank 1 cannot compute (CUDA error: uncorrectable ECC error encountered)" in refusal(results["broken"])
    assert max(rank["seconds"] for rank in results["broken"]) < 10


def test_a_slow_link_is_put_down_to_its_node_and_not_to_the_neighbours(results: dict[str, Any]) -> None:
    assert refusal(results["slow link"]) == ""
    assert "n3: its exchange with either neighbour takes" in warnings(results["slow link"])
    assert not any(f"{host}: its exchange" in warnings(results["slow link"]) for host in ("n0", "n1", "n2"))


def test_a_clock_that_is_behind_is_refused(results: dict[str, Any]) -> None:
    text = refusal(results["clock"])
    assert "n1: its clock is" in text
    assert "s behind: start time synchronisation there" in text
    assert text.count("\n") == 1


def test_a_wrong_sum_is_refused(results: dict[str, Any]) -> None:
    assert "n2: rank 2: the sum over all ranks is wrong (11, not 10): leave n2 out" in refusal(results["wrong sum"])


def test_a_folder_of_the_same_kind_that_is_another_one_is_refused(results: dict[str, Any]) -> None:
    text = refusal(results["apart"])
    assert "n3: its run directory (on " in text
    assert "is not the one of n0" in text
    assert text.count("\n") == 1


def test_a_node_without_the_folder_is_refused_once(results: dict[str, Any]) -> None:
    text = refusal(results["absent"])
    assert "n1: its run directory" in text
    assert text.count("\n") == 1


def test_a_folder_that_rank_0_cannot_write_is_blamed_on_nobody_else(results: dict[str, Any]) -> None:
    text = refusal(results["unwritable"])
    assert "n0: the run directory: cannot write there (Not a directory)" in text
    assert text.count("\n") == 1


def test_an_mlflow_that_does_not_answer_is_only_said(results: dict[str, Any]) -> None:
    assert refusal(results["no mlflow"]) == ""
    assert "n0: MLflow: http://127.0.0.1:9 does not answer" in warnings(results["no mlflow"])


def test_a_rank_that_falls_silent_is_given_up_by_all(results: dict[str, Any]) -> None:
    text = refusal(results["silent"])
    assert "all nodes: ranks 0-3: the sum over all ranks did not end within 2 s" in text


def start(ranks: list[int], size: int, folder: Path, seconds: float) -> list[tuple[int, str, str]]:
    """Run ``python -m launch.check`` as these ranks; returns status, output and errors of each."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "launch.check", str(folder), str(seconds)],
                env={**os.environ, **rank_environment(rank, size, listener), "SLURMD_NODENAME": f"n{rank}"},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=(listener.fileno(),) if rank == 0 else (),
            )
            for rank in ranks
        ]
    try:
        said = [process.communicate(timeout=240) for process in processes]
        return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def test_the_program_prints_a_table_and_leaves_with_0(tmp_path: Path) -> None:
    (status, out, err), (other_status, other_out, _) = start([0, 1], 2, tmp_path, 120)
    assert (status, other_status) == (0, 0), err
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["node", "ranks", "GPUs"]
    assert [line.split()[:2] for line in lines[1:3]] == [["n0", "0"], ["n1", "1"]]
    assert other_out == ""


def test_the_program_refuses_with_1(tmp_path: Path) -> None:
    [(status, out, err)] = start([0], 1, tmp_path / "nowhere", 60)
    assert status == 1, err
    assert "refuse: n0: the run directory: cannot write there (No such file or directory)" in out


def test_a_rank_that_never_comes_is_named_by_all_others(tmp_path: Path) -> None:
    for status, _, err in start([0, 1, 3], 4, tmp_path, 20):
        assert status == 2, err
        assert "cait: rank 2 of 4 did not come within 20 s (here are, by host: n0: 0; n1: 1; n3: 3)" in err
        assert "Traceback" not in err
