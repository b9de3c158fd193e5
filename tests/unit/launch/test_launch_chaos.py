"""Faults on purpose: what can be chosen, who is struck, and what is told of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from training_command import CAIT, wait_for

from launch.chaos import processes, storage_faults
from launch.chaos.errors import ChaosError
from launch.chaos.faults import FAULTS, choose_faults
from launch.chaos.report import Difference, Result, table
from launch.chaos.trial import Progress, Struck

SAME = Difference(steps=90, loss=0.0, final_loss=0.0, same_weights=True)


def test_a_small_cluster_offers_every_fault_and_anothers_those_of_ones_own_processes_and_files() -> None:
    assert [fault.name for fault in choose_faults([], mini=True)] == list(FAULTS)
    offered = {fault.name for fault in choose_faults([], mini=False)}
    assert {"rank-killed", "rank-hung", "requeued", "checkpoint-torn", "shard-corrupt"} <= offered
    assert offered.isdisjoint({"node-off", "network-cut", "controller-restarted", "disk-full", "clock-jump"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank-kiled"], "there is no fault 'rank-kiled'; did you mean rank-killed?"),
        (["earthquake"], "there is no fault 'earthquake'; there are rank-killed, rank-hung"),
        (["node-off", "--cluster", "h100"], "node-off harms machines"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(CAIT), "chaos", *arguments, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_longest_time_without_a_new_step_is_kept_and_repeated_steps_are_none() -> None:
    progress = Progress(10)
    for step, attempt, pause in ((11, 1, 0.0), (5, 2, 0.15), (11, 2, 0.0)):
        time.sleep(pause)
        progress.look(step, attempt)
    assert (progress.furthest, progress.attempt) == (11, 1), "the second has yet to come further"
    progress.look(12, 2)
    assert (progress.furthest, progress.attempt) == (12, 2)
    assert 0.15 <= progress.longest < 2


RANK = "import sys, time; sys.argv[1] == 'launch.job.rank' or sys.exit(1); {children}; time.sleep(60)"
CHILD = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"


def rank_of(run_dir: str, rank: int, children: str = "pass") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RANK.format(children=children), "launch.job.rank", run_dir, "1"]
    return subprocess.Popen(command, env={**os.environ, "RANK": str(rank)})


def test_a_signal_reaches_the_rank_of_that_run_or_its_loader_and_nobody_else() -> None:
    ours, other, foreign = rank_of("/runs/a", 1, CHILD), rank_of("/runs/a", 0), rank_of("/runs/b", 1)
    try:
        wait_for(lambda: processes.children(ours.pid), "the child")
        assert processes.main("/runs/a", "1", str(int(signal.SIGKILL)), "worker") == 0
        wait_for(lambda: not processes.children(ours.pid), "the end of the child")
        assert ours.poll() is None
        assert processes.main("/runs/a", "1", str(int(signal.SIGKILL))) == 0
        assert ours.wait(10) == -signal.SIGKILL
        assert processes.main("/runs/a", "1", str(int(signal.SIGKILL))) == 1, "nobody is left"
        assert other.poll() is None
        assert foreign.poll() is None
    finally:
        for process in (ours, other, foreign):
            process.kill()
            process.wait()


def test_every_way_to_damage_a_file_damages_it(tmp_path: Path) -> None:
    path, whole = tmp_path / "file", bytes(range(1, 256)) * 8
    for seed in range(50):
        for damage in (storage_faults._flip_byte, storage_faults._truncate, *storage_faults.SPOILING):
            path.write_bytes(whole)
            damage(path, Random(seed))
            assert path.read_bytes() != whole, damage


def test_results_are_kept_and_told_in_a_table(tmp_path: Path) -> None:
    strikes = (Struck(40, 12.5, 3, 1, True), Struck(71, 20.0, 11, 1, False))
    good = Result("rank-killed", "SIGKILL to a rank", strikes, (SAME,))
    bad = Result("node-off", "", strikes[:1], (SAME, Difference(90, 0.25, 0.125, False)))
    lost = Result("rank-hung", "", (), failure="it made no further step")
    good.save(tmp_path)
    assert Result.load(tmp_path, FAULTS["rank-killed"]) == good
    assert Result.load(tmp_path, FAULTS["node-off"]) is None
    assert (good.ok, bad.ok, lost.ok) == (True, False, False)
    lines = table([good, bad, lost]).splitlines()
    assert lines[2] == "| rank-killed | 2 | 2, 1 launched again | 7 (3 to 11) | 16.25 (12.5 to 20) | 0 | equal |"
    assert lines[3] == "| node-off | 1 | 1 | 3 (3 to 3) | 12.5 (12.5 to 12.5) | 0.25 | differ |"
    assert lines[4] == "| rank-hung | 0 | no |  |  |  |  |"


def test_without_a_compiler_the_clock_cannot_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.chaos import clock  # noqa: PLC0415

    monkeypatch.setattr(clock.shutil, "which", lambda _: None)
    with pytest.raises(ChaosError, match="needs a C compiler"):
        clock.build_library(tmp_path)


CLOCKS = """
import mmap, struct, sys, time
before, steady = time.time(), time.monotonic()
with open(sys.argv[1], "r+b") as file:
    file.write(struct.pack("=q", -3600))
print(round(time.time() - before), round(time.monotonic() - steady))
"""


def test_the_time_of_day_jumps_for_a_process_and_durations_do_not(tmp_path: Path) -> None:
    from launch.chaos import clock  # noqa: PLC0415

    clock.build_library(tmp_path)
    variables = {"LD_PRELOAD": str(tmp_path / clock.LIBRARY), "CAIT_CHAOS_CLOCK": str(tmp_path / "clock")}
    done = subprocess.run(
        [sys.executable, "-c", CLOCKS, str(tmp_path / "clock")],
        capture_output=True, text=True, check=True, env={**os.environ, **variables},
    )  # fmt: skip
    assert done.stdout.split() == ["-3600", "0"]
