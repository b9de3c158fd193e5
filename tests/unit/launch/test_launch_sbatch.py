"""The script that SLURM gets, word by word where it matters."""

from pathlib import Path

import pytest

from launch.profile import ClusterProfile
from launch.sbatch import make_executor, script_of


def script(tmp_path: Path, members: int = 1, parallel: int | None = None, **profile: object) -> list[str]:
    made = ClusterProfile.model_validate({"nodes": 4, "gpus_per_node": 8, "python": "python3", **profile})
    return script_of(make_executor(tmp_path, made, "s24", parallel), members).splitlines()


@pytest.mark.usefixtures("_srun_is_here")
def test_one_task_per_gpu_with_its_cores_and_the_end_of_all_when_one_fails(tmp_path: Path) -> None:
    lines = script(tmp_path, cpus_per_task=12, time="2-00:00:00", account="vision")
    for line in (
        "nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=12", "time=2880", "signal=USR2@120",
        "requeue", "open-mode=append", "account=vision", "job-name=s24",
    ):  # fmt: skip
        assert f"#SBATCH --{line}" in lines
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1 --cpus-per-task=12 python3 -u -m submitit" in srun
    assert not [line for line in lines if "partition" in line or "CUDA_VISIBLE_DEVICES" in line]


@pytest.mark.usefixtures("_srun_is_here")
def test_site_lines_come_first_then_the_job_s_code_then_begin_and_last_end(tmp_path: Path) -> None:
    lines = script(tmp_path, setup=["module load cuda"], environment={"NCCL_DEBUG": "WARN now"})
    order = [
        "module load cuda",
        "export NCCL_DEBUG='WARN now'",
        f"export PYTHONPATH={tmp_path}/code${{PYTHONPATH:+:$PYTHONPATH}}",
        "trap : TERM USR2",
        f"started=$(python3 -m launch.job.begin {tmp_path}) || exit $?",
        'eval "$started"',
        "python3 -m launch.job.end $?",
        "exit $?",
    ]
    places = [lines.index(line) for line in order]
    assert places == sorted(places)
    # `end` needs srun's own status: nothing may run in between.
    srun = next(number for number, line in enumerate(lines) if line.startswith("srun "))
    between = lines[srun + 1 : lines.index("python3 -m launch.job.end $?")]
    assert all(not line or line.startswith("#") for line in between)


@pytest.mark.usefixtures("_srun_is_here")
def test_an_array_has_its_limit_and_a_log_for_each_member(tmp_path: Path) -> None:
    lines = script(tmp_path, members=6, parallel=2)
    assert "#SBATCH --array=0-5%2" in lines
    assert f"#SBATCH --output={tmp_path}/%A_%a_0_log.out" in lines


@pytest.mark.usefixtures("_srun_is_here")
def test_a_cluster_without_gpus_is_not_asked_for_any(tmp_path: Path) -> None:
    assert not [line for line in script(tmp_path, gpus_per_node=0, tasks_per_node=2) if "--gpus" in line]


@pytest.mark.usefixtures("_srun_is_here")
def test_a_site_that_forbids_requeueing_is_told_so(tmp_path: Path) -> None:
    lines = script(tmp_path, requeue=False)
    assert "#SBATCH --no-requeue" in lines
    assert "#SBATCH --requeue" not in lines
