"""From a profile to what submitit submits.

The script that results (``cait launch … --dry-run`` prints it) does what ``slurm/train.sbatch`` spells out: set the
site's environment, ``begin``, `srun` with one task per GPU, ``end``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .profile import ClusterProfile


def make_executor(folder: Path, profile: ClusterProfile, name: str, parallel: int | None = None) -> Any:
    """A submitit executor whose jobs train what ``folder/members.json`` names.

    Args:
        folder: for the job's script, log and code
        profile: with the command line's options laid over it
        name: of the job
        parallel: most members of an array at a time
    """
    executor = joint_executor(folder, profile, name, parallel)
    executor.update_parameters(
        slurm_setup=_setup(profile, folder),
        slurm_teardown=[f"{python(profile)} -m launch.job.end $?", "exit $?"],
    )
    return executor


def joint_executor(folder: Path, profile: ClusterProfile, name: str, parallel: int | None = None) -> Any:
    """An executor for the profile's tasks on all its nodes; when one fails, all of them end."""
    executor = bare_executor(folder, profile, name, parallel)
    executor.update_parameters(
        tasks_per_node=profile.tasks, slurm_srun_args=["--kill-on-bad-exit=1", *_cpus(profile), *profile.srun]
    )
    return executor


def bare_executor(folder: Path, profile: ClusterProfile, name: str, parallel: int | None = None) -> Any:
    """An executor for one plain task on one node, with everything that the site wants said."""
    import submitit  # noqa: PLC0415 - most commands do without

    # Not AutoExecutor: it takes "slurm" for any machine that has an `srun`, and would hide the options' names.
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_python=python(profile), slurm_max_num_timeout=1000)
    options = {
        "slurm_job_name": name,
        "nodes": profile.nodes,
        "gpus_per_node": profile.gpus_per_node or None,
        "cpus_per_task": profile.cpus_per_task,
        "mem_gb": profile.memory_gb,
        "timeout_min": profile.minutes,
        "slurm_signal_delay_s": profile.signal_seconds,
        "slurm_partition": profile.partition,
        "slurm_account": profile.account,
        "slurm_qos": profile.qos,
        "slurm_constraint": profile.constraint,
        "slurm_exclude": profile.exclude,
        "slurm_comment": profile.comment,
        "slurm_array_parallelism": parallel,
    }
    executor.update_parameters(
        **{key: value for key, value in options.items() if value is not None},
        tasks_per_node=1,
        stderr_to_stdout=True,
        slurm_setup=environment_lines(profile, folder),
        slurm_srun_args=[*_cpus(profile), *profile.srun],
        # Said in both ways: clusters differ in what they do with a job that says nothing.
        slurm_additional_parameters={("requeue" if profile.requeue else "no-requeue"): True, **profile.sbatch},
    )
    return executor


def script_of(executor: Any, members: int = 1) -> str:
    """The text that `sbatch` will get."""
    inner = executor._executor
    if members > 1:
        inner.parameters["map_count"] = members
    text = str(inner._make_submission_file_text(inner._submitit_command_str, "dry-run"))
    inner.parameters.pop("map_count", None)
    return text


def python(profile: ClusterProfile) -> str:
    """The command that starts Python on a node."""
    return profile.python or shlex.quote(sys.executable)


def environment_lines(profile: ClusterProfile, folder: Path) -> list[str]:
    """Shell lines before Python: the site's, the variables, and the code that goes with the job."""
    code = shlex.quote(str(code_folder(folder)))
    # `python -m` looks in the current folder first, which may be a checkout with other code.
    not_here = "export PYTHONSAFEPATH=1" if sys.version_info >= (3, 11) else f"cd {code}"
    return [
        *profile.setup,
        *_exports(profile.environment),
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
        not_here,
        # Since SLURM 22.05 `srun` does not take the number of cores from the job by itself.
        'if [ -n "$SLURM_CPUS_PER_TASK" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi',
        'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"',
    ]


def code_folder(folder: Path) -> Path:
    """Where the job's code lies."""
    return folder / "code"


def _setup(profile: ClusterProfile, folder: Path) -> list[str]:
    begin = f"{python(profile)} -m launch.job.begin {shlex.quote(str(folder))}"
    return [
        *environment_lines(profile, folder),
        # The script outlives the signals that end its ranks: it has to say what becomes of the job.
        "trap : TERM USR2",
        f"started=$({begin}) || exit $?",
        'eval "$started"',
    ]


def _exports(variables: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _cpus(profile: ClusterProfile) -> Sequence[str]:
    return [f"--cpus-per-task={profile.cpus_per_task}"] if profile.cpus_per_task else []
