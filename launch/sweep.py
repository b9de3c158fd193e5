"""`cait sweep`: every combination of several values, as one job array, or one after another on this machine.

::

    runs/NAME/
      sweep.json            axes, members, the MLflow run that they are shown under
      launch/               the array's script, logs and code
      lr_1e-3-seed_0/       a run like any other: `cait status`, `logs`, `cancel`, `export` take it
      lr_1e-3-seed_1/       …

The same command again submits the members that are neither finished nor in the queue: that is how one is retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cait_dist.config import ConfigError, Problem, RunConfig, load_config
from cait_dist.tracking.run_directory import RunDirectory, read_json, write_json

from .job.task import RankTask
from .job_record import JobRecord, launch_dir
from .limits import check_limits, check_partition
from .profile import LOCAL, ClusterProfile, load_profile
from .sbatch import code_folder, make_executor, script_of
from .slurm_commands import queue
from .snapshot import snapshot_code
from .status import SWEEP_FILE
from .submit import Order, absolute, check_script, plan_run, record_of, submit_jobs, watch_start, write_folder
from .sweep_axes import Member, SweepError, members, split_arguments
from .tracking_writers import check_many_writers, check_one_writer


@dataclass(frozen=True)
class Sweep:
    """A sweep, checked, nothing written.

    Attributes:
        folder: runs_dir/NAME.
        axes: values by key.
        configs: of the members, in the order of the product.
        base: what all of them share.
    """

    folder: Path
    axes: dict[str, list[str]]
    configs: list[RunConfig]
    base: RunConfig


def read_sweep(config_path: Path, arguments: Sequence[str]) -> Sweep:
    """Resolve every member.

    Raises:
        SweepError: if the arguments make no sweep, or another one than the folder was begun with
        ConfigError: if a member's configuration is wrong, with the problems of all of them
    """
    fixed, axes = split_arguments(arguments)
    found = members(axes)
    base = absolute(load_config(config_path, [*fixed, *found[0].settings]).config)
    folder = base.run_dir
    problems: list[Problem] = []
    configs = []
    for member in found:
        try:
            configs.append(_member_config(config_path, fixed, member, folder, base))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    _refuse_another_sweep(folder, axes)
    return Sweep(folder, axes, configs, base)


def _member_config(config_path: Path, fixed: Sequence[str], member: Member, folder: Path, base: RunConfig) -> RunConfig:
    from cait_dist.tracking.mlflow_mirror import default_uri  # noqa: PLC0415

    uri = base.tracking.uri or default_uri(base.runs_dir)
    own = [f"runs_dir={folder}", f"name={member.name}", f"tracking.uri={uri}"]
    return absolute(load_config(config_path, [*fixed, *member.settings, *own]).config)


def _refuse_another_sweep(folder: Path, axes: dict[str, list[str]]) -> None:
    if (folder / "run.json").exists():
        raise SweepError(f"{folder} is a run, not a sweep: pass name=NEW")
    known = read_json(folder / SWEEP_FILE)
    if known and list(known["axes"]) != list(axes):
        raise SweepError(f"{folder} was begun with the axes {', '.join(known['axes'])}: use the same, or pass name=NEW")


def unfinished(sweep: Sweep, only: str | None) -> list[RunConfig]:
    """The members that are neither finished nor in the queue.

    Args:
        sweep: from `read_sweep`
        only: a pattern for their names, e.g. ``lr_1e-3-*``; None for all

    Raises:
        SweepError: if no member has such a name
    """
    chosen = _named(sweep, only)
    records = {config.name: JobRecord.read(config.run_dir) for config in chosen}
    jobs = queue() if any(records.values()) else {}
    return [
        config
        for config in chosen
        if not ((record := records[config.name]) and record.job_id in jobs) and not _is_finished(config)
    ]


def _named(sweep: Sweep, only: str | None) -> list[RunConfig]:
    chosen = [config for config in sweep.configs if only is None or fnmatch(config.name, only)]
    if not chosen:
        raise SweepError(f"--only {only}: no such member (there are {', '.join(c.name for c in sweep.configs[:8])}, …)")
    return chosen


def _is_finished(config: RunConfig) -> bool:
    attempts = RunDirectory(config.run_dir).read_record()["attempts"]
    return bool(attempts) and attempts[-1].get("outcome") == "finished"


def submit_sweep(
    sweep: Sweep, cluster: str, options: dict[str, Any], parallel: int | None, only: str | None
) -> list[JobRecord]:
    """Submit what is unfinished as one array; returns the records of its members, none if there is nothing to do.

    Raises:
        ValueError: of the project's own kinds; nothing stays in the queue
    """
    profile = load_profile(cluster, options)
    for config in sweep.configs:
        check_limits(profile, config)
    check_many_writers(sweep.configs)
    check_partition(profile)
    chosen = unfinished(sweep, only)
    if not chosen:
        return []
    place = _next_folder(launch_dir(sweep.folder))
    executor = make_executor(place, profile, sweep.folder.name, parallel)
    check_script(script_of(executor, len(chosen)))
    plan_run(chosen[0], profile)
    parent = open_parent(sweep)
    orders = [Order(with_parent(config, parent), profile, cluster) for config in chosen]
    return _submit(place, executor, orders)


def _submit(place: Path, executor: Any, orders: list[Order]) -> list[JobRecord]:
    write_folder(place, [order.config for order in orders])
    code = snapshot_code(code_folder(place))
    ids = submit_jobs(executor, [RankTask() for _ in orders])
    records = [record_of(order, job_id, place, code) for order, job_id in zip(orders, ids, strict=True)]
    for order, record in zip(orders, records, strict=True):
        record.write(order.config.run_dir)
    watch_start(ids[0], place)
    return records


def _next_folder(folder: Path) -> Path:
    """Each submission has a folder of its own: members of the one before may still be at work with its code."""
    number = 1
    while (folder / str(number)).exists():
        number += 1
    return folder / str(number)


def open_parent(sweep: Sweep) -> str | None:
    """The MLflow run that the members are shown under, created on the first submission; None without MLflow."""
    from cait_dist.tracking.parent_run import open_parent_run  # noqa: PLC0415 - loads MLflow

    path = sweep.folder / SWEEP_FILE
    known = read_json(path) or {}
    first = sweep.configs[0].tracking
    same_place = known.get("tracking", {}).get("uri") == first.uri
    opened = known.get("parent") if same_place else None
    parent = open_parent_run(sweep.folder, first, sweep.axes, opened) if first.mlflow else None
    sweep.folder.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys([*known.get("members", []), *(config.name for config in sweep.configs)])
    tracking = {"uri": first.uri, "experiment": first.experiment}
    write_json(path, {"axes": sweep.axes, "members": list(names), "parent": parent, "tracking": tracking})
    return parent


def with_parent(config: RunConfig, parent: str | None) -> RunConfig:
    """The member's configuration with the MLflow run that it belongs to."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"parent_run_id": parent})})


def close_parent_if_done(run_dir: Path) -> None:
    """End the sweep's MLflow run once every member has come to an end. For a run that is no member: nothing."""
    folder = run_dir.parent
    sweep = read_json(folder / SWEEP_FILE)
    if not sweep or not sweep["parent"]:
        return
    ends = [_end_of(folder / name) for name in sweep["members"]]
    if None not in ends:
        from cait_dist.tracking.parent_run import close_parent_run  # noqa: PLC0415 - loads MLflow

        close_parent_run(sweep["tracking"]["uri"], sweep["parent"], all_finished=all(ends))


def _end_of(run_dir: Path) -> bool | None:
    """Whether a member finished; None if it is still to go on."""
    last = (RunDirectory(run_dir).read_record()["attempts"] or [{}])[-1]
    if last.get("outcome") == "finished":
        return True
    return False if last.get("verdict", "").startswith("stop") else None


def run_here(sweep: Sweep, processes: int | None, only: str | None) -> int:
    """Train the unfinished members on this machine, one after another; returns the first status that is not 0."""
    from .train import train_config  # noqa: PLC0415 - loads torch

    chosen = unfinished(sweep, only)
    for config in chosen:
        check_one_writer(config)
    parent = open_parent(sweep)
    for number, config in enumerate(chosen, 1):
        print(f"--- {number}/{len(chosen)} {config.name}", flush=True)
        status = train_config(with_parent(config, parent), processes, "auto")
        if status:
            return status
        close_parent_if_done(config.run_dir)
    return 0


def describe(sweep: Sweep, cluster: str, options: dict[str, Any], parallel: int | None, only: str | None) -> str:
    """What would be submitted: the members, and the script. Nothing is written."""
    chosen = _named(sweep, only)
    lines = [f"{len(chosen)} members of {sweep.folder}:", *(f"  {config.name}" for config in chosen)]
    if cluster == LOCAL:
        return "\n".join(lines)
    profile: ClusterProfile = load_profile(cluster, options)
    check_many_writers(chosen)
    plan_run(chosen[0], profile)
    executor = make_executor(launch_dir(sweep.folder) / "1", profile, sweep.folder.name, parallel)
    return "\n".join([*lines, "", script_of(executor, len(chosen))])
