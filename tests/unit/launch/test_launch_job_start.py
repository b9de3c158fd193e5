"""What a job reads of its surroundings when it starts."""

import socket
import time
from pathlib import Path

import pytest

from cait_dist.tracking.code_version import CODE_FILE, DIFF_FILE, code_diff
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError
from launch.job.allocation import Allocation, Task
from launch.job.begin import FIRST_PORT, PORTS, free_port, stop_time
from launch.job_record import member_of, write_members
from launch.slurm_commands import explain_refusal, parse_facts
from launch.snapshot import snapshot_code

SCRIPT = "#!/bin/bash\n#SBATCH --partition=nope\n#SBATCH --constraint=turbo\n"


def test_a_plain_job_and_a_member_of_an_array() -> None:
    plain = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "16", "SLURM_JOB_NODELIST": "n[1-2]"}
    assert Allocation.read(plain) == Allocation("7", "7", 0, 0, "n[1-2]", 2, 16)
    array = {**plain, "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"}
    assert Allocation.read(array) == Allocation("5_3", "7", 3, 2, "n[1-2]", 2, 16)


def test_a_task_knows_its_place() -> None:
    found = Task.read({"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_NODES": "2"})
    assert found == Task(rank=9, local_rank=1, size=16, local_size=8)


def test_ranks_stop_before_the_limit() -> None:
    facts = parse_facts("JobId=7 JobState=RUNNING EndTime=2026-01-02T03:04:05 Reason=None\n")
    end = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))
    assert stop_time(facts, None) == pytest.approx(end - 120, abs=3600.5)  # an hour for summer time
    assert stop_time({"EndTime": "Unknown"}, None) is None
    assert stop_time({}, None) is None


def test_a_port_in_use_is_passed_over_and_the_range_wraps_round() -> None:
    with socket.create_server(("", free_port(41))) as first:
        taken = first.getsockname()[1]
        assert free_port(taken - FIRST_PORT) == taken + 1
    assert FIRST_PORT <= free_port(PORTS - 1) < FIRST_PORT + PORTS
    assert FIRST_PORT + PORTS <= 32768, "outgoing connections begin there"


def test_members_are_told_by_their_index(tmp_path: Path) -> None:
    write_members(tmp_path, [tmp_path / "a", tmp_path / "b"])
    assert member_of(tmp_path, 1) == tmp_path / "b"


def test_a_snapshot_is_importable_says_what_it_is_and_has_no_leftovers(tmp_path: Path) -> None:
    (tmp_path / "code" / "old").mkdir(parents=True)
    described = snapshot_code(tmp_path / "code")
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == [
        "cait_dist",
        DIFF_FILE,
        CODE_FILE,
        "data_prep",
        "launch",
    ]
    assert list((tmp_path / "code" / "launch").rglob("*.pyc")), "compiled once, for all ranks"
    assert described["version"]
    assert code_diff(tmp_path / "code") == code_diff(), "a job that runs the copy knows what was not committed"
    assert snapshot_code(tmp_path / "again")["digest"] == described["digest"]


def test_a_directory_can_be_taken_from_a_lost_owner(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.lock()
    with pytest.raises(RunDirectoryError, match="in use by process"):
        run.lock()
    run.lock(take_over=True)
    with pytest.raises(RunDirectoryError):
        run.lock()


def test_an_attempt_knows_when_it_is_no_longer_the_last(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.attempt(1).mkdir()
    assert run.is_latest(1)
    run.attempt(2).mkdir()
    assert not run.is_latest(1)


@pytest.mark.parametrize(
    ("message", "begins"),
    [
        ("invalid partition specified: nope; allocation failure: Invalid partition", "--partition nope: SLURM says"),
        ("allocation failure: Invalid feature specification", "--constraint turbo: SLURM says: Invalid feature"),
        ("Batch job submission failed: Invalid account or account/partition", "--account: SLURM says: Invalid account"),
        ("something nobody has seen", "SLURM does not accept the job: something nobody has seen"),
    ],
)
def test_refusals_name_the_option(message: str, begins: str) -> None:
    assert explain_refusal(message, SCRIPT).startswith(begins)
