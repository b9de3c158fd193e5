"""`cait launch`: check everything that can be checked here, then put one run into the queue.

What is wrong is said before the submission, or within seconds after it: a job that SLURM accepts and will never start
is taken back. What the user has to read is one line.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cait_dist.config import RunConfig, config_to_yaml, load_config
from cait_dist.tracking.run_directory import timestamp

from .job.task import RankTask
from .job_record import CANCELLED, REFUSED, JobRecord, launch_dir, write_members
from .limits import check_limits, check_partition
from .profile import ClusterProfile, load_profile
from .sbatch import code_folder, make_executor, script_of
from .slurm_commands import SlurmError, cancel, job_facts, queue, test_only
from .snapshot import snapshot_code
from .tracking_writers import check_one_writer, warn_if_unreachable

WATCH_SECONDS, PENDING_SECONDS = 8.0, 2.0
HOPELESS = (
    "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionNodeLimit", "PartitionTimeLimit", "PartitionDown",
    "PartitionInactive", "DependencyNeverSatisfied", "AssociationJobLimit", "AssocMaxJobsLimit", "QOSNotAllowed",
    "AssocMaxNodePerJobLimit", "AssocMaxWallDurationPerJobLimit", "QOSMaxNodePerJobLimit",
    "QOSMaxWallDurationPerJobLimit",
)  # fmt: skip
"""Reasons for which a job would wait for ever."""


@dataclass(frozen=True)
class Order:
    """What the user asked for, checked.

    Attributes:
        config: of the run.
        profile: with the command line's options laid over it.
        profile_name: as it was given.
    """

    config: RunConfig
    profile: ClusterProfile
    profile_name: str


def read_order(config_path: Path, overrides: Sequence[str], cluster: str, options: dict[str, Any]) -> Order:
    """Resolve the configuration and the profile; nothing is written.

    Raises:
        ConfigError: if something in them is wrong
        SlurmError: if the profile's limits forbid it
        TrackingWritersError: if MLflow's database would break
    """
    config = absolute(load_config(config_path, overrides).config)
    profile = load_profile(cluster, options)
    check_limits(profile, config)
    check_one_writer(config)
    return Order(config, profile, cluster)


def absolute(config: RunConfig) -> RunConfig:
    """The same with its places as absolute paths: a job may start in another folder."""
    return RunConfig.model_validate(_absolute(config.model_dump()))


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute(inner) for inner in value)
    return value.absolute() if isinstance(value, Path) else value


def submit(order: Order) -> JobRecord:
    """Put the run into the queue.

    Raises:
        ValueError: of the project's own kinds, when it cannot run or SLURM refuses it; nothing stays in the queue
    """
    config = order.config
    refuse_second_job(config.run_dir)
    check_partition(order.profile)
    folder = launch_dir(config.run_dir)
    executor = make_executor(folder, order.profile, config.name)
    check_script(script_of(executor))
    plan_run(config, order.profile)
    warn_if_unreachable(config)
    write_folder(folder, [config])
    code = snapshot_code(code_folder(folder))
    job_id = submit_jobs(executor, [RankTask()])[0]
    record = record_of(order, job_id, folder, code)
    record.write(config.run_dir)
    watch_start(job_id, folder)
    return record


def dry_run(order: Order) -> str:
    """What `submit` would do: the plan and the script. Nothing is written, submitted or asked of SLURM."""
    plan = plan_run(order.config, order.profile)
    folder = launch_dir(order.config.run_dir)
    script = script_of(make_executor(folder, order.profile, order.config.name))
    profile = order.profile
    lines = [
        f"run        {order.config.run_dir}",
        f"nodes      {profile.nodes} × {profile.tasks} tasks, {profile.gpus_per_node} GPUs each, time {profile.time}",
        f"batch      {plan.batches}",
        f"steps      {plan.calendar.total_steps}",
    ]
    return "\n".join([*lines, "", script])


def plan_run(config: RunConfig, profile: ClusterProfile) -> Any:
    """Check that the run can be started on that many processes.

    Raises:
        CannotStartError: with every obstacle
    """
    from cait_dist.training.starting.preflight import preflight  # noqa: PLC0415 - loads torch; wrong options are told before

    return preflight(config, profile.world_size)


def refuse_second_job(run_dir: Path) -> None:
    """A run has one job at a time.

    Raises:
        SlurmError: if there is one in the queue
    """
    record = JobRecord.read(run_dir)
    job = queue().get(record.job_id) if record else None
    if record and job:
        raise SlurmError(
            f"{run_dir} is job {record.job_id} already, {job.state}: see `cait status {run_dir}`, end it with"
            f" `cait cancel {run_dir}`, or give the new run another name=…"
        )


def write_folder(folder: Path, configs: Sequence[RunConfig]) -> None:
    """Write down what a job will train: it reads this, not the files that the user goes on editing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_members(folder, [config.run_dir for config in configs])
    for config in configs:
        own = launch_dir(config.run_dir)
        own.mkdir(parents=True, exist_ok=True)
        (own / "config.yaml").write_text(config_to_yaml(config))
        for name in (CANCELLED, REFUSED):
            (own / name).unlink(missing_ok=True)


def check_script(script: str) -> None:
    """Let SLURM look at a script.

    Raises:
        SlurmError: if it would not accept the job
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        test_only(Path(file.name))


def submit_jobs(executor: Any, tasks: Sequence[Any]) -> list[str]:
    """Submit tasks, several as one array; returns the ids of the jobs.

    Raises:
        SlurmError: with SLURM's words
    """
    import submitit  # noqa: PLC0415

    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error)]
        raise SlurmError(f"SLURM does not accept the job: {lines[-1].rpartition('error: ')[2]}") from None
    return [str(job.job_id) for job in jobs]


def record_of(order: Order, job_id: str, folder: Path, code: dict[str, str]) -> JobRecord:
    """What is kept of a submission."""
    profile = order.profile
    return JobRecord(
        job_id=job_id,
        folder=str(folder),
        profile=order.profile_name,
        nodes=profile.nodes,
        tasks_per_node=profile.tasks,
        time=profile.time,
        max_restarts=profile.max_restarts,
        submitted=timestamp(),
        code=code,
        signal_seconds=profile.signal_seconds,
        checks=profile.checks.model_dump(exclude_unset=True),
    )


def watch_start(job_id: str, folder: Path) -> None:
    """Look after a fresh job for a few seconds: long enough to see it start, wait for a good reason, or fail.

    Raises:
        SlurmError: if it would never start (it is taken back), or failed before its first line
    """
    log, array, began = folder / f"{job_id}_0_log.out", job_id.partition("_")[0], time.monotonic()
    while time.monotonic() < began + WATCH_SECONDS and not log.exists():
        facts = job_facts(job_id)
        state, reason = facts.get("JobState", ""), facts.get("Reason", "None")
        if reason in HOPELESS:
            cancel([array])
            raise SlurmError(f"job {job_id} would wait for ever ({reason}), and was taken back: {_about(reason)}")
        if state == "FAILED" or "FAIL" in reason:
            cancel([array] if array != job_id else [])  # its other members would fail as well
            raise SlurmError(
                f"job {job_id} failed before its first line ({reason}, exit {facts.get('ExitCode', '?')}):"
                f" most likely the node does not see {folder}; put it on a folder that all nodes share"
            )
        if state == "PENDING" and time.monotonic() > began + PENDING_SECONDS:
            return
        time.sleep(0.3)


def _about(reason: str) -> str:
    if "Time" in reason or "Wall" in reason:
        return "lower --time"
    if "Node" in reason:
        return "lower --nodes, or choose another --partition"
    if "Account" in reason or "Assoc" in reason:
        return "check --account"
    return "check --qos" if "QOS" in reason else "check --partition and --constraint"
