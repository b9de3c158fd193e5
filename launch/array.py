"""`cait prep --cluster`: the shards of a data set built by a job array, and finished by one more job.

::

    OUT/.jobs/
      jobs.json           which jobs
      code/               the code that they run
      12_3_0_log.out      member 3 of the array: builds shards 3, 3 + N, 3 + 2 N, …
      13_0_log.out        starts when the array has ended, in whatever way: builds what is missing, writes manifests

Members need not agree on anything: a shard's bytes follow from the plan, and it is whole or absent. So a member that is
killed costs time, never a result: it comes back, or the last job does what it has left.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.formats import Formats, is_complete, prepare
from data_prep.plan import Plan, ShardTask
from data_prep.pool import map_tasks
from data_prep.real_labels import RealLabels
from data_prep.run import make_ready
from data_prep.shard import build_task
from data_prep.write_ffcv import Mode

from .job.plain import PlainTask, granted_cores
from .limits import check_partition, check_places
from .one_task import executor_of, log_path, note_jobs, one_task_profile, refuse_while_queued
from .profile import ClusterProfile
from .sbatch import code_folder, script_of
from .slurm_commands import SlurmError, cancel
from .snapshot import snapshot_code
from .submit import check_script, submit_jobs, watch_start

FOLDER = ".jobs"
USUAL_MEMBERS = 16


class BuildShards(PlainTask):
    """A member of the array.

    Args:
        tasks: its shards
        place: see `Order`
    """

    def __init__(self, tasks: Sequence[ShardTask], place: Path | None) -> None:
        self.tasks, self.place = tuple(tasks), place

    def work(self) -> None:
        """Build what is missing of its shards."""
        _go_to(self.place)
        for number, (task, built) in enumerate(map_tasks(build_task, self.tasks, granted_cores()), 1):
            how = "found finished" if built.found_finished else "built"
            print(f"{number}/{len(self.tasks)} {task.path.name}: {len(built.record.rows):,} images, {how}", flush=True)


class FinishDataset(PlainTask):
    """The last job.

    Args:
        order: the whole data set
    """

    def __init__(self, order: Order) -> None:
        self.order = order

    def work(self) -> None:
        """Build what the array has left, write the manifests and the betons."""
        _go_to(self.order.place)
        print(self.order.carry_out(granted_cores()), flush=True)


def _go_to(place: Path | None) -> None:
    try:
        os.chdir(place or ".")
    except OSError:
        raise SlurmError(f"this node does not see {place}: give SOURCE by a full path that all nodes share") from None


@dataclass(frozen=True)
class Order:
    """A data set that is to be prepared.

    Attributes:
        plan: with an absolute folder.
        formats: webdataset, ffcv or both.
        mode: of images in betons.
        real: ReaL labels of val.
        place: folder in which the path of the source begins, which goes into the manifest as it was given; None for a
            full path.
    """

    plan: Plan
    formats: Formats
    mode: Mode
    real: RealLabels | None = None
    place: Path | None = None

    def carry_out(self, workers: int | None = None) -> str:
        """Build what is missing; returns what was done, in a line for each part of it."""
        done = prepare(self.plan, self.formats, self.mode, workers=workers)
        return f"{done}\nReaL labels: {self.real.write(self.plan)}" if self.real else done


@dataclass(frozen=True)
class ArrayJob:
    """The jobs of a data set, checked; nothing is written yet.

    Attributes:
        order: what to prepare.
        profile: for one task.
        jobs: members of the array.
        parallel: most of them at a time; None for all.
    """

    order: Order
    profile: ClusterProfile
    jobs: int
    parallel: int | None

    @property
    def folder(self) -> Path:
        """For scripts, logs and code."""
        return self.order.plan.out / FOLDER

    @property
    def members(self) -> list[BuildShards]:
        """Member i builds shards i, i + N, i + 2 N, …: all have as many of every split, give or take one."""
        plan = self.order.plan
        parts = [range(i, plan.num_shards, self.jobs) for i in range(self.jobs)]
        return [BuildShards([plan.task(number) for number in part], self.order.place) for part in parts]

    def executor(self, after: str | None = None) -> Any:
        """Of submitit: for the array, or for the job after it."""
        name = f"prep-{self.order.plan.out.name}"
        return executor_of(self.folder, self.profile, name, self.parallel, after)

    def log(self, job_id: str) -> Path:
        """Where the output of a job goes."""
        return log_path(self.folder, job_id)

    def __str__(self) -> str:
        """The division, for people."""
        plan = self.order.plan
        most = -(-plan.num_shards // self.jobs)
        at_once = f", at most {self.parallel} at a time" if self.parallel else ""
        return (
            f"{self.jobs} members build {plan.num_shards} shards of {plan.num_images:,} images, at most {most} shards"
            f" each{at_once}; one job after them writes the manifests"
        )


def array_profile(source: str, out: Path, cluster: str, options: dict[str, Any]) -> ClusterProfile:
    """The profile for the members, checked before the source is looked through, which may take minutes.

    Args:
        source: as the user gave it
        out: folder of the data set
        cluster: name or file of the profile
        options: of the command line, which win

    Raises:
        ConfigError: if something in the profile or the options is wrong
        SlurmError: if the profile's limits forbid it
    """
    profile = one_task_profile(cluster, options, gpus=0)
    check_places(profile, {"--out": out, "SOURCE": Path(source) if Path(source).exists() else None})
    return profile


def plan_array(order: Order, profile: ClusterProfile, jobs: int | None, parallel: int | None) -> ArrayJob:
    """Divide the work.

    Args:
        order: what to prepare
        profile: from `array_profile`
        jobs: members of the array; None for as many as usual
        parallel: most of them at a time
    """
    return ArrayJob(order, profile, min(jobs or USUAL_MEMBERS, order.plan.num_shards), parallel)


def scripts_of(job: ArrayJob) -> str:
    """What SLURM would get."""
    return f"{script_of(job.executor(), job.jobs)}\n{script_of(job.executor('ARRAY'))}"


def submit_array(job: ArrayJob) -> list[str]:
    """Put the jobs into the queue; returns the ids of the array's members and of the last job, none if all is done.

    Raises:
        DataPrepError: if the folder belongs to another data set
        SlurmError: when SLURM refuses a job; nothing stays in the queue
    """
    plan, folder = job.order.plan, job.folder
    refuse_while_queued(folder, f"the preparation of {plan.out}")
    check_partition(job.profile)
    check_script(script_of(job.executor(), job.jobs))
    missing = make_ready(plan)
    if is_complete(plan, job.order.formats, job.order.mode):
        return []
    folder.mkdir(exist_ok=True)
    snapshot_code(code_folder(folder))
    ids = submit_jobs(job.executor(), job.members) if missing else []
    try:
        after = ids[0].partition("_")[0] if ids else None
        ids += submit_jobs(job.executor(after), [FinishDataset(job.order)])
    except ValueError:
        cancel({job_id.partition("_")[0] for job_id in ids})
        raise
    note_jobs(folder, ids)
    _watch(job, ids)
    return ids


def _watch(job: ArrayJob, ids: Sequence[str]) -> None:
    try:
        watch_start(ids[0], job.folder)
    except ValueError:
        cancel({job_id.partition("_")[0] for job_id in ids})
        raise
