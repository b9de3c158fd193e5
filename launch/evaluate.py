"""`cait evaluate --cluster`: the same evaluation as one task of a cluster.

::

    runs/NAME/launch/evaluate/
      config.yaml       resolved when the job was submitted
      jobs.json         which job
      code/             the code that the job runs
      12_0_log.out      the table

Preempted or out of time, the job comes back; what it has measured is not measured again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cait_dist.config import RunConfig, config_to_yaml

from .job.plain import PlainTask
from .job_record import launch_dir
from .limits import check_partition, check_places
from .one_task import executor_of, log_path, note_jobs, one_task_profile, refuse_while_queued
from .profile import ClusterProfile
from .sbatch import code_folder, script_of
from .snapshot import snapshot_code
from .submit import absolute, check_script, submit_jobs, watch_start

if TYPE_CHECKING:
    from cait_dist.training.evaluating.request import Request


class EvaluateRun(PlainTask):
    """What travels to the cluster.

    Args:
        request: with absolute places
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    def work(self) -> None:
        """Evaluate, and print the table into the job's log."""
        from cait_dist.training.evaluating.run import Evaluation  # noqa: PLC0415 - torch only where it computes

        Evaluation(self.request).work()


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation that was checked; nothing is written yet.

    Attributes:
        request: with absolute places.
        config: resolved, with absolute places.
        profile: for one task.
        run_dir: of the run.
    """

    request: Request
    config: RunConfig
    profile: ClusterProfile
    run_dir: Path

    @property
    def folder(self) -> Path:
        """For script, log and code."""
        return launch_dir(self.run_dir) / "evaluate"

    @property
    def executor(self) -> Any:
        """Of submitit."""
        return executor_of(self.folder, self.profile, f"evaluate-{self.run_dir.name}")

    @property
    def script(self) -> str:
        """What SLURM will get."""
        return script_of(self.executor)


def plan_evaluation(request: Request, cluster: str, options: dict[str, Any]) -> EvaluationJob:
    """Check the request and the profile.

    Raises:
        ValueError: of the project's own kinds
    """
    from cait_dist.training.evaluating.run import Evaluation  # noqa: PLC0415 - wrong options are told before

    profile = one_task_profile(cluster, options, gpus=1)
    evaluation = Evaluation(request)
    config, run_dir = absolute(evaluation.config), evaluation.run_dir.absolute()
    sets = {
        f"'evaluation.sets.{i}.{key}'": getattr(chosen, key)
        for i, chosen in enumerate(config.evaluation.sets)
        for key in ("path", "subset")
    }
    check_places(profile, {"the run": run_dir, "'data.path'": config.data.path, **sets})
    return EvaluationJob(replace(request, place=request.place.absolute(), overrides=()), config, profile, run_dir)


def submit_evaluation(job: EvaluationJob) -> tuple[str, Path]:
    """Put it into the queue; returns the job's id and where its log will be.

    Raises:
        SlurmError: when SLURM refuses it; nothing stays in the queue
    """
    folder, executor = job.folder, job.executor
    refuse_while_queued(folder, f"an evaluation of {job.run_dir}")
    check_partition(job.profile)
    check_script(job.script)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = folder / "config.yaml"
    resolved.write_text(config_to_yaml(job.config))
    snapshot_code(code_folder(folder))
    job_id = submit_jobs(executor, [EvaluateRun(replace(job.request, config=resolved))])[0]
    note_jobs(folder, [job_id])
    watch_start(job_id, folder)
    return job_id, log_path(folder, job_id)
