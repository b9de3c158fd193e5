"""Beginning an attempt at a run: everything is checked before anything is written or any process starts.

A run is begun once and may need several attempts: it is preempted, a node fails, somebody stops it. An attempt may
differ from the one before in how the work is done, never in what is computed: another data order or batch size on the
same curve would be a silent change of the experiment, and is refused by name.
"""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cait_dist.config import RunConfig, config_to_yaml, diff, load_config
from cait_dist.config.deciding import may_change
from cait_dist.tracking.code_version import code_diff, describe_code
from cait_dist.tracking.metrics import attempt_metrics, read_metrics
from cait_dist.tracking.run_directory import RunDirectory, timestamp

from ..saving.checkpoint_files import (
    START_OVER,
    Checkpoint,
    list_checkpoints,
    remove_unfinished,
    set_aside,
    unreadable_checkpoints,
)
from .plan import CannotStartError, Plan


@dataclass(frozen=True)
class Attempt:
    """One attempt, ready to be started on any number of ranks."""

    run: RunDirectory
    number: int
    resume_step: int | None
    lock: int
    """file descriptor that holds the run directory; inherited by the ranks"""

    @property
    def directory(self) -> Path:
        """Where this attempt writes."""
        return self.run.attempt(self.number)


def begin_attempt(
    config: RunConfig, plan: Plan, resume: str, where: Mapping[str, Any] | None = None, take_over: bool = False
) -> Attempt | None:
    """Claim the run directory and write down what is about to happen.

    Args:
        config: resolved
        plan: from ``preflight``, which has checked that the configuration can be started
        resume: ``auto`` (newest checkpoint, if any), ``never``, or a step
        where: facts for the attempt's entry: nodes, job
        take_over: claim the directory from a process that is known to be out of the game

    Returns:
        the attempt, or None when the run is finished already

    Raises:
        CannotStartError: when the directory belongs to a different experiment, or the checkpoint does not exist
        RunDirectoryError: when another process is using the directory
    """
    run = RunDirectory(config.run_dir)
    checkpoints = list_checkpoints(run.checkpoints)
    begin = _choose(checkpoints, resume, run)
    if run.config.is_file():
        _refuse_another_experiment(run, config, plan)
    if begin is not None and begin.step >= plan.calendar.total_steps:
        return None
    lock = run.lock(take_over)
    note_lost_attempt(run)
    lost = _lost(run, begin)
    _set_later_ones_aside(checkpoints, begin)
    remove_unfinished(run.checkpoints)
    attempt = Attempt(run, len(run.attempts()) + 1, begin.step if begin else None, lock)
    attempt.directory.mkdir()
    _write_down(attempt, config, plan, {**(where or {}), **lost})
    return attempt


def note_lost_attempt(run: RunDirectory) -> None:
    """Complete the entry of an attempt that had no chance to: its machine is gone."""
    attempts = run.read_record()["attempts"]
    if attempts and "outcome" not in attempts[-1]:
        rows = attempt_metrics(run.attempt(attempts[-1]["number"]))
        step = rows[-1]["step"] if rows else attempts[-1]["resumed_from"] or 0
        run.update_attempt(attempts[-1]["number"], outcome="lost", step=step)


def _lost(run: RunDirectory, begin: Checkpoint | None) -> dict[str, Any]:
    """What the interruption before this attempt has cost, as far as the metrics tell.

    ``redone_steps`` were done and are done again; ``waited_seconds`` passed since the last sign of life;
    ``lost_seconds`` is both together: all the time since the step that this attempt goes on from.
    """
    rows, step, now = read_metrics(run), begin.step if begin else 0, time.time()
    if not rows:
        return {}
    first = next((row for row in rows if row["step"] > step), None)
    return {
        "redone_steps": max(0, rows[-1]["step"] - step),
        "waited_seconds": round(now - rows[-1]["time"], 1),
        "lost_seconds": round(now - (first or rows[-1])["time"], 1),
    }


def _choose(checkpoints: list[Checkpoint], resume: str, run: RunDirectory) -> Checkpoint | None:
    if resume == "auto":
        _refuse_damaged(checkpoints, run)
        return checkpoints[-1] if checkpoints else None
    if resume == "never":
        if checkpoints:
            raise CannotStartError(
                [f"{run.path} holds checkpoints up to step {checkpoints[-1].step}: leave --resume out, or pass name=…"]
            )
        return None
    found = next((c for c in checkpoints if str(c.step) == resume), None)
    if found is None:
        steps = ", ".join(str(c.step) for c in checkpoints) or "none"
        raise CannotStartError(
            [f"--resume {resume}: {run.path} has no complete checkpoint of that step (complete: {steps})"]
        )
    return found


def _refuse_damaged(checkpoints: list[Checkpoint], run: RunDirectory) -> None:
    """Days of work may be in what cannot be read: whether it is given up, its owner decides."""
    damaged = ", ".join(path.name for path in unreadable_checkpoints(run.checkpoints))
    if damaged and not checkpoints:
        raise CannotStartError([f"{run.checkpoints} holds nothing but damaged checkpoints ({damaged}): {START_OVER}"])


def _refuse_another_experiment(run: RunDirectory, config: RunConfig, plan: Plan) -> None:
    begun = load_config(run.config).config
    changes = [change for change in diff(begun, config) if not may_change(change[0])]
    problems = [f"'{key}' was {old!r} when {run.path} was begun and is {new!r} now" for key, old, new in changes]
    record = run.read_record()
    if record.get("teacher_digest", plan.teacher_digest) != plan.teacher_digest:
        problems.append(
            f"'distillation': {config.distillation.source} is another teacher than the one {run.path} was begun with"
        )
    if record.get("data_digest", plan.data_digest) != plan.data_digest:
        problems.append(f"'data.path': {config.data.path} holds other samples than those {run.path} was begun with")
    if problems:
        raise CannotStartError(
            [*problems, "a resumed run must compute the same thing: undo the change, or pass name=NEW"]
        )


def _set_later_ones_aside(checkpoints: list[Checkpoint], begin: Checkpoint | None) -> None:
    for checkpoint in checkpoints:
        if begin is not None and checkpoint.step > begin.step:
            set_aside(checkpoint)


def _write_down(attempt: Attempt, config: RunConfig, plan: Plan, facts: Mapping[str, Any]) -> None:
    resolved = config_to_yaml(config)
    if not attempt.run.config.is_file():
        attempt.run.config.write_text(resolved)
    (attempt.directory / "config.yaml").write_text(resolved)
    if difference := code_diff():
        (attempt.directory / "code.diff").write_text(difference)
    attempt.run.update_attempt(
        attempt.number,
        started=timestamp(),
        resumed_from=attempt.resume_step,
        processes=plan.batches.world_size,
        code=describe_code(),
        environment=_environment(),
        **facts,
    )
    attempt.run.update_record(
        name=config.name,
        data_digest=plan.data_digest,
        teacher_digest=plan.teacher_digest,
        total_steps=plan.calendar.total_steps,
        global_batch=plan.batches.global_batch,
    )


def _environment() -> dict[str, Any]:
    packages = ("cait-dist", "torch", "deepspeed", "numpy", "webdataset", "mlflow")
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        **{package: found for package in packages if (found := _version(package))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
