"""Jobs of one process ask for a share of a node, divide the work fairly, and leave SLURM's signals to one process."""

import os
import signal
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import write_image_folder
from typer.testing import CliRunner

import launch.array
import launch.one_task
from cait_dist.cli import app
from cait_dist.config import ConfigError
from data_prep.plan import make_plan
from data_prep.sources import open_source
from launch.array import ArrayJob, BuildShards, Order, array_profile, plan_array, scripts_of, submit_array
from launch.job.plain import PlainTask, granted_cores, take_signals_alone
from launch.one_task import one_task_profile
from launch.sbatch import script_of
from launch.slurm_commands import SlurmError

WHOLE_NODES = """
nodes: 4
gpus_per_node: 4
cpus_per_task: 8
memory_gb: 240
time: 2:00:00
sbatch: {exclusive: true, reservation: ours}
"""


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "whole.yaml"
    path.write_text(WHOLE_NODES)
    return str(path)


def array(profile: str, out: Path, jobs: int | None = None, parallel: int | None = None, **options: object) -> ArrayJob:
    plan = make_plan(open_source("digits", image_size=8), out, shard_size=100)
    one = array_profile("digits", out, profile, options)
    return plan_array(Order(plan, "webdataset", "jpg"), one, jobs, parallel)


def test_a_task_gets_its_share_of_a_node(profile: str) -> None:
    one = one_task_profile(profile, {}, gpus=1)
    assert (one.nodes, one.tasks, one.gpus_per_node, one.cpus_per_task, one.memory_gb) == (1, 1, 1, 8, 60)
    assert one.sbatch == {"reservation": "ours"}
    assert one_task_profile(profile, {}, gpus=0).gpus_per_node == 0


def test_options_win_over_the_share(profile: str) -> None:
    one = one_task_profile(profile, {"gpus_per_node": 0, "memory_gb": 7.0, "cpus_per_task": 3, "time": "9"}, gpus=1)
    assert (one.gpus_per_node, one.memory_gb, one.cpus_per_task, one.minutes) == (0, 7, 3, 9)
    with pytest.raises(ConfigError, match="--time"):
        one_task_profile(profile, {"time": "soon"}, gpus=1)


def test_all_of_a_nodes_memory_is_not_asked_for_one_task(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text("gpus_per_node: 0\nmemory_gb: 0\n")
    one = one_task_profile(str(path), {}, gpus=1)
    assert (one.memory_gb, one.gpus_per_node) == (None, 0)


@pytest.mark.parametrize(("asked", "jobs"), [(1, 1), (4, 4), (7, 7), (99, 19), (None, 16)])
def test_every_shard_has_one_member_and_all_have_as_many(
    profile: str, tmp_path: Path, asked: int | None, jobs: int
) -> None:
    job = array(profile, tmp_path / "out", asked)
    paths = [[task.path for task in member.tasks] for member in job.members]
    assert len(paths) == job.jobs == jobs
    plan = job.order.plan
    assert sorted(chain(*paths)) == sorted(plan.task(number).path for number in range(plan.num_shards))
    assert np.ptp([len(part) for part in paths]) <= 1


@pytest.mark.usefixtures("_srun_is_here")
def test_the_scripts_say_how_many_how_many_at_a_time_and_what_is_waited_for(profile: str, tmp_path: Path) -> None:
    first, last = scripts_of(array(profile, tmp_path / "out", 5, 2)).split("#!/bin/bash")[1:]
    assert "#SBATCH --array=0-4%2\n" in first
    assert "--array" not in last
    assert "#SBATCH --dependency=afterany:ARRAY\n" in last
    assert "--dependency" not in first
    for text in (first, last):
        assert "gpus" not in text
        assert "#SBATCH --requeue\n" in text
        assert f"export PYTHONPATH={tmp_path}/out/.jobs/code" in text


@pytest.mark.usefixtures("_srun_is_here")
def test_a_dry_run_tells_the_division_and_writes_nothing(profile: str, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    command = ["prep", "digits", "--out", str(tmp_path / "out"), "--shard-samples", "100", "--cluster", profile]
    done = CliRunner().invoke(app, [*command, "--jobs", "5", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("5 members build 19 shards of 1,797 images, at most 4 shards each")
    assert done.output.count("#!/bin/bash") == 2
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_that_the_nodes_do_not_see_is_refused(profile: str, tmp_path: Path) -> None:
    Path(profile).write_text(WHOLE_NODES + "limits: {shared_paths: [/shared]}\n")
    with pytest.raises(SlurmError, match=r"--out is .*/out, which the nodes do not see: choose a folder under /shared"):
        array(profile, tmp_path / "out")


@pytest.mark.parametrize("option", [["--jobs", "2"], ["--parallel", "2"], ["--partition", "long"], ["--dry-run"]])
def test_a_clusters_options_need_a_cluster(tmp_path: Path, option: list[str]) -> None:
    done = CliRunner().invoke(app, ["prep", "digits", "--out", str(tmp_path / "out"), *option])
    assert isinstance(done.exception, ConfigError)
    assert option[0] in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_workers_are_the_cores_of_a_member(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ArrayJob] = []
    monkeypatch.setattr("cait_dist.cli.data._submit", lambda job, _: seen.append(job))
    command = ["prep", "digits", "--out", str(tmp_path / "out"), "--cluster", profile]
    for options in ([], ["--workers", "3"], ["--workers", "3", "--cpus-per-task", "5"]):
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
    assert [job.profile.cpus_per_task for job in seen] == [8, 3, 5]


def test_a_task_uses_the_cores_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert granted_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "100000")
    assert granted_cores() == len(os.sched_getaffinity(0))


@pytest.fixture
def warnings() -> "list[int]":
    """Process numbers in which the handler that was there before, submitit's, has run."""
    return []


def test_only_the_task_itself_hears_a_warning_and_sigterm_ends_it(warnings: list[int]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGUSR2, lambda *_: warnings.append(os.getpid()))
        signal.signal(signal.SIGTERM, lambda *_: None)
        take_signals_alone()
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(len(warnings))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert warnings == [os.getpid()]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Refuses(PlainTask):
    def work(self) -> None:
        raise SlurmError("say what to do")


class Breaks(PlainTask):
    def work(self) -> None:
        raise ValueError("a fault")


def test_what_the_user_can_mend_ends_a_task_with_status_2_and_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.job.plain.take_signals_alone", lambda: None)
    with pytest.raises(SystemExit) as ended:
        Refuses()()
    assert ended.value.code == 2
    assert capsys.readouterr().out == "cait: say what to do\n"
    with pytest.raises(ValueError, match="a fault"):
        Breaks()()
    assert Refuses().checkpoint().function.work.__qualname__ == "Refuses.work"


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> "dict[str, list[Any]]":
    """What SLURM was asked for; a submission of one task is refused while ``refuse`` holds something."""
    asked: dict[str, list[Any]] = {"submitted": [], "cancelled": [], "refuse": []}

    def submit(executor: Any, tasks: list[Any]) -> list[str]:
        if asked["refuse"] and len(tasks) == 1:
            raise SlurmError("no more jobs")
        asked["submitted"].append((executor, tasks))
        return [f"7_{i}" for i in range(len(tasks))] if len(tasks) > 1 else ["8"]

    monkeypatch.setattr(launch.array, "submit_jobs", submit)
    monkeypatch.setattr(launch.array, "cancel", asked["cancelled"].extend)
    monkeypatch.setattr(launch.one_task, "queue", lambda: {"7_1": None} if "queued" in asked else {})
    for name in ("check_partition", "check_script", "watch_start"):
        monkeypatch.setattr(launch.array, name, lambda *_: None)
    return asked


@pytest.mark.usefixtures("_srun_is_here")
def test_the_array_is_taken_back_when_the_last_job_is_refused(
    profile: str, tmp_path: Path, slurm: dict[str, list[Any]]
) -> None:
    slurm["refuse"].append(True)
    with pytest.raises(SlurmError, match="no more jobs"):
        submit_array(array(profile, tmp_path / "out", 3))
    assert slurm["cancelled"] == ["7"]


@pytest.mark.usefixtures("_srun_is_here")
def test_only_what_is_missing_is_submitted_and_never_twice(
    profile: str, tmp_path: Path, slurm: dict[str, list[Any]]
) -> None:
    job = array(profile, tmp_path / "out", 3)
    assert submit_array(job) == ["7_0", "7_1", "7_2", "8"]
    assert "#SBATCH --dependency=afterany:7\n" in script_of(slurm["submitted"][-1][0])
    slurm["queued"] = []
    with pytest.raises(SlurmError, match="scancel 7"):
        submit_array(job)
    del slurm["queued"]
    for _, tasks in slurm["submitted"]:
        for task in tasks:
            task.work()
    assert submit_array(job) == []
    with_betons = replace(job, order=replace(job.order, formats="both"))
    assert submit_array(with_betons) == ["8"], "the tars are there, and would be built again for nothing"
    slurm["submitted"][-1][1][0].work()
    assert submit_array(with_betons) == []


@pytest.mark.usefixtures("_srun_is_here")
def test_a_relative_source_is_looked_for_where_the_user_was(
    profile: str, tmp_path: Path, slurm: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_folder(tmp_path / "images", {"train": 12})
    there = tmp_path / "there"
    monkeypatch.chdir(tmp_path)
    command = ["prep", "images", "--out", "out", "--shard-samples", "4", "--cluster", profile, "--jobs", "2"]
    assert CliRunner().invoke(app, command).exit_code == 0
    tasks = [task for _, tasks in slurm["submitted"] for task in tasks]
    there.mkdir()
    monkeypatch.chdir(there)
    for task in tasks:
        task.work()
    assert '"folder: images"' in (tmp_path / "out" / "train" / "manifest.json").read_text()
    with pytest.raises(SlurmError, match=r"does not see .*SOURCE by a full path"):
        BuildShards((), tmp_path / "gone").work()
