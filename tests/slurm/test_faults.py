"""Whatever happens to a job, it ends in a finished run whose every loss is that of the undisturbed one.

All disturbances run at the same time, on a cluster of their own: each costs half a minute of waiting and little work.
Only the job that meets its time limit begins before the others. Steps are slowed down so that there is a middle to
disturb. The times to recover are printed (``pytest -s``) and, where the environment names a file by
``CAIT_RECOVERY_TIMES``, written there.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cluster_runs import ClusterRun, cait, launch, rank_process, run, slow_forward_passes, slow_steps, write_profile
from faulty_ranks import raise_in_fourth_step
from training_command import evaluations, final_state, losses, wait_for

from cait_dist.tracking.code_version import describe_code
from cait_dist.tracking.run_directory import timestamp
from slurm.minicluster import MiniCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # the first test waits for all disturbances

DISTURB_AT = 13
"""Beyond the checkpoint of step 10 and before the next."""


def external_requeue(job: ClusterRun) -> None:
    assert run(job.cluster, ["scontrol", "requeue", job.job_id]).returncode == 0


def warning_signal(job: ClusterRun) -> None:
    assert run(job.cluster, ["scancel", "--signal=USR2", job.job_id]).returncode == 0


def killed_rank(job: ClusterRun) -> None:
    os.kill(rank_process(job.run.path, 1), signal.SIGKILL)


def hung_rank(job: ClusterRun) -> None:
    """Stopped, not ended: its node is fine, and nothing tells the others."""
    os.kill(rank_process(job.run.path, 1), signal.SIGSTOP)


def slow_node(job: ClusterRun) -> None:
    """The hook of the test slows down the node on which rank 1 began: nothing is left to do."""


def node_power_off(job: ClusterRun) -> None:
    """Of the node that runs the job's script, which nobody is left to end in good order."""
    job.cluster.kill_node(job.attempts[0]["nodes"][0])


def network_cut(job: ClusterRun) -> None:
    job.cluster.cut(job.attempts[0]["nodes"][1])


def slurmd_killed(job: ClusterRun) -> None:
    job.cluster.stop_slurmd(job.attempts[0]["nodes"][1])


def preemption(job: ClusterRun) -> None:
    nodes = ",".join(job.attempts[0]["nodes"])
    options = ["--partition=high", "--exclusive", "--output=/dev/null", f"--nodelist={nodes}"]
    assert run(job.cluster, ["sbatch", *options, "--wrap", "sleep 1"]).returncode == 0


DISTURBANCES: dict[str, Callable[[ClusterRun], None]] = {
    function.__name__: function
    for function in (
        slurmd_killed, node_power_off, network_cut, preemption, external_requeue, warning_signal, killed_rank,
        hung_rank, slow_node,
    )
}  # fmt: skip
SAVED = {"time_limit", "preemption", "warning_signal", "external_requeue", "slow_node"}
"""These warn before they end the job, so that no step is lost at all."""
SETTINGS = {
    "hung_rank": ["training.hang_timeout=15"],
    "slow_node": ["training.health_every=4", "training.slow_nodes=replace", "training.slow_node_factor=4"],
}
"""What a disturbed run is launched with besides: how the work is done, not what is computed."""


@pytest.fixture(scope="module")
def big_cluster(_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniCluster]:
    folder = tmp_path_factory.mktemp("faults") / "cluster"
    # To save takes the rest of a step, another one and the writing: with all these ranks on a few cores, seconds.
    conf = {"KillWait": "20"}
    with MiniCluster.up(folder, nodes=20, gpus=0, accounting="none", conf=conf, stay=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(big_cluster: MiniCluster, shared_config: Path) -> ClusterRun:
    job = launch(big_cluster, shared_config, write_profile(shared_config.parent), name="undisturbed")
    job.wait_until_finished()
    return job


@pytest.fixture(scope="module")
def disturbed(big_cluster: MiniCluster, undisturbed: ClusterRun, shared_config: Path) -> dict[str, ClusterRun]:
    """Every disturbance, each at a run of its own on nodes of its own, all finished."""
    folder = shared_config.parent
    slow = slow_steps(folder / "slow", 0.4)
    alone = write_profile(folder, "alone", exclusive=True)
    low = write_profile(folder, "low", exclusive=True, partition="low")
    # 36 steps of 4 s do not fit into two minutes; one is left for saving among nine others, on whatever machine.
    short = write_profile(folder, "short", time="3", signal=60)

    def begin(name: str) -> ClusterRun:
        profile = {"preemption": low, "time_limit": short}.get(name, alone)
        # SLURM needs half a minute to miss a slurmd, and as long to see that time is up.
        steps = slow | {"TEST_STEP_SECONDS": {"time_limit": "4", "slurmd_killed": "1.5"}.get(name, "0.4")}
        if name == "slow_node":
            steps |= slow_forward_passes(folder / "slow_node", 3.0)
        return launch(big_cluster, shared_config, profile, *SETTINGS.get(name, ()), name=name, **steps)

    def disturb(name: str) -> ClusterRun:
        job = begin(name)
        job.wait_for_step(DISTURB_AT)
        job.wait_for_checkpoint(10)  # which is written while training goes on
        DISTURBANCES[name](job)
        job.wait_until_finished()
        return job

    # Its clock runs, so it starts before the others want the same few cores for their own start.
    timed = begin("time_limit")
    timed.wait_for_step(1)
    with ThreadPoolExecutor(8) as pool:
        jobs = dict(zip(DISTURBANCES, pool.map(disturb, DISTURBANCES), strict=True))
    timed.wait_until_finished()
    jobs["time_limit"] = timed
    keep_times(jobs)
    return jobs


def keep_times(jobs: dict[str, ClusterRun]) -> None:
    """The seconds from the last step before a disturbance to the next start of the job."""
    times = {name: [a["waited_seconds"] for a in job.attempts if "waited_seconds" in a] for name, job in jobs.items()}
    print(f"\nseconds without a step: {times}")
    if place := os.environ.get("CAIT_RECOVERY_TIMES"):
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        facts = {
            "command": "CAIT_RECOVERY_TIMES=FILE pytest tests/slurm/test_faults.py",
            **describe_code(),
            "date": timestamp(),
            "hardware": f"{cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores",
            "load_average": os.getloadavg(),
            "slurm": "KillWait 20 s, SlurmdTimeout 10 s, requeued jobs wait 5 s; all jobs at the same time",
            "seconds_without_a_step": times,
        }
        Path(place).write_text(json.dumps(facts, indent=1) + "\n")


@pytest.mark.parametrize("name", [*DISTURBANCES, "time_limit"])
def test_the_run_ends_as_if_nothing_had_happened(
    name: str, disturbed: dict[str, ClusterRun], undisturbed: ClusterRun
) -> None:
    job = disturbed[name]
    assert len(job.attempts) >= 2, "it was disturbed"
    assert losses(job.run) == losses(undisturbed.run)
    assert evaluations(job.run) == evaluations(undisturbed.run)
    assert final_state(job.run) == final_state(undisturbed.run)


@pytest.mark.parametrize("name", [*DISTURBANCES, "time_limit"])
def test_no_step_is_lost_beyond_the_last_checkpoint(name: str, disturbed: dict[str, ClusterRun]) -> None:
    for before, after in zip(disturbed[name].attempts, disturbed[name].attempts[1:], strict=False):
        # When SLURM misses a slurmd, the newest checkpoint may just be on its way.
        assert after["redone_steps"] <= (0 if name in SAVED else 20 if name == "slurmd_killed" else 10)
        assert after["resumed_from"] + after["redone_steps"] == before["step"]
        assert after["waited_seconds"] > 0
        assert after["lost_seconds"] >= after["waited_seconds"]


def test_the_nodes_of_every_attempt_are_recorded(disturbed: dict[str, ClusterRun]) -> None:
    for name in ("node_power_off", "network_cut"):
        first, last = disturbed[name].attempts[0], disturbed[name].attempts[-1]
        assert len(first["nodes"]) == len(last["nodes"]) == 2
        assert set(first["nodes"]) != set(last["nodes"]), "a broken node is not used again"
        assert first["job"] == last["job"]


def test_the_log_names_what_came_first(disturbed: dict[str, ClusterRun]) -> None:
    assert "rank 1 was ended by SIGKILL" in disturbed["killed_rank"].log
    assert "saved at step" in disturbed["warning_signal"].log
    hung = disturbed["hung_rank"]
    node = hung.attempts[0]["nodes"][1]
    assert f"rank 1 on node {node} has not been heard of for" in hung.log
    assert f"rank 1 on node {node} has not been heard of for" in hung.attempts[0]["failure"]["message"]
    assert (hung.run.attempt(1) / "rank-0.stacks.txt").exists()


def test_a_slow_node_is_named_and_not_used_again(disturbed: dict[str, ClusterRun]) -> None:
    job = disturbed["slow_node"]
    node = job.attempts[0]["nodes"][1]
    assert f"node {node} is busy" in job.log
    assert f"{node} was slow, and is left out from now on" in job.log
    assert all(node not in attempt["nodes"] for attempt in job.attempts[1:])
    assert len(job.attempts) == 2, "once"


def test_the_same_error_twice_at_the_same_step_ends_the_job(
    big_cluster: MiniCluster, shared_config: Path, tmp_path: Path
) -> None:
    profile = write_profile(shared_config.parent, "alone", exclusive=True)
    job = launch(big_cluster, shared_config, profile, name="faulty", **raise_in_fourth_step(tmp_path))
    wait_for(lambda: len(job.attempts) == 2 and "verdict" in job.attempts[1], "the second failure", 240)
    job.wait_until_gone()
    first, second = job.attempts
    assert first["verdict"].startswith("requeue")
    assert second["verdict"].startswith("stop: the same error twice")
    assert second["failure"]["rank"] == 1
    assert "RuntimeError: the fault that the test has put in" in second["failure"]["message"]
    assert job.facts()["JobState"] == "FAILED"
    shown = cait(big_cluster, "status", job.run.path).stdout
    assert "failed" in shown
    assert "the fault that the test has put in" in shown


def test_what_the_user_can_mend_is_not_tried_again(big_cluster: MiniCluster, shared_config: Path) -> None:
    profile = write_profile(shared_config.parent, "alone", exclusive=True)
    settings = ("optimizer.lr=1e30", "optimizer.clip_grad=null")
    job = launch(big_cluster, shared_config, profile, *settings, name="hopeless")
    job.wait_until_gone()
    assert len(job.attempts) == 1
    assert job.attempts[0]["verdict"].startswith("stop: this needs you")
    assert "lower optimizer.lr" in job.log.partition("job ")[2]


def test_cancelling_saves_and_does_not_come_back_until_it_is_launched_again(
    big_cluster: MiniCluster, shared_config: Path, tmp_path: Path, undisturbed: ClusterRun
) -> None:
    profile = write_profile(shared_config.parent, "alone", exclusive=True)
    job = launch(big_cluster, shared_config, profile, name="cancelled", **slow_steps(tmp_path / "slow", 2.0))
    job.wait_for_step(3)
    again = cait(big_cluster, "launch", shared_config, "name=cancelled", "--cluster", profile)
    assert again.returncode == 2
    assert f"is job {job.job_id} already, RUNNING" in again.stderr
    done = cait(big_cluster, "cancel", job.run.path)
    assert "saves and ends" in done.stdout
    job.wait_until_gone()
    saved: dict[str, Any] = job.attempts[-1]
    assert saved["outcome"] == "stopped"
    assert saved["verdict"] == f"stop: cancelled at step {saved['step']}"
    assert "cancelled" in cait(big_cluster, "status", job.run.path).stdout
    job = launch(big_cluster, shared_config, profile, name="cancelled")
    job.wait_until_finished()
    assert job.attempts[-1]["resumed_from"] == saved["step"]
    assert losses(job.run) == losses(undisturbed.run)
