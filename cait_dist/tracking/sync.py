"""`cait track sync`: fill an MLflow that was unreachable, late, or is new."""

import fcntl
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cait_dist.config import ConfigError, load_config

from .inputs import send_inputs
from .mlflow_client import MlflowMissingError
from .mlflow_facts import durable_step, read_ending, read_facts
from .mlflow_mirror import default_uri
from .mlflow_run import MlflowRun, first_line
from .registry import place_of
from .run_directory import RunDirectory, RunDirectoryError
from .sqlite_file import SQLITE

Report = Callable[[int, int], None]
"""Told bytes done, and all of them."""


def sync_to_mlflow(run_dir: Path, uri: str | None = None, report: Report = lambda done, total: None) -> str:
    """Send everything the run directory holds and MLflow lacks; idempotent.

    Steps that no checkpoint of an unfinished run holds are done again when it goes on: they are sent as ``live/…``.

    Args:
        run_dir: of a run that is not live
        uri: server or database; None for the one the run was configured with
        report: called as the work goes on

    Returns:
        a line that says what was sent

    Raises:
        RunDirectoryError: when there is no run, it is live, or MLflow does not answer
    """
    run = RunDirectory.existing(run_dir)
    if run.is_live():
        raise RunDirectoryError(f"{run_dir} is being trained now and mirrors itself: call this when it has ended")
    if not run.read_record()["attempts"]:
        raise RunDirectoryError(f"{run_dir} has nothing to send: no attempt has begun there")
    config = load_config(run.config).config
    target = uri or config.tracking.uri or default_uri(run.path.parent)
    with _alone(run):
        mlflow_run = MlflowRun(
            run, target, config.tracking.experiment, [partial(send_inputs, run)], _warn, check=_fence(run)
        )
        sent = _send(mlflow_run, run, target, report)
    return f"{run_dir}: {sent} values sent to {target}"


def sync_runs(run_dirs: Sequence[Path], uri: str | None = None) -> int:
    """The same for several runs, with a line and a progress bar for each.

    Returns:
        the status to exit with: 2 when there was a run that could not be sent; the others are sent all the same
    """
    status = 0
    console = Console(stderr=True, soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        for run_dir in run_dirs:
            task = bar.add_task(run_dir.name, total=None)
            try:
                print(sync_to_mlflow(run_dir, uri, partial(_show, bar, task)))
            except (RunDirectoryError, ConfigError) as error:
                status = 2
                print(f"cait: {error}", file=sys.stderr)
            except Exception:  # a fault is no reason to keep the others back
                status = 2
                print(f"cait: {run_dir} cannot be sent:\n{traceback.format_exc()}", file=sys.stderr)
            bar.remove_task(task)
    return status


def _warn(text: str) -> None:
    print(f"cait: {text}", file=sys.stderr)


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _send(mlflow_run: MlflowRun, run: RunDirectory, target: str, report: Report) -> int:
    facts, ending = read_facts(run), read_ending(run)
    try:
        mlflow_run.open(facts, running=False)
        total = mlflow_run.total_bytes
        sent = mlflow_run.send(durable_step(run), lambda done: report(done, total))
        mlflow_run.send_system()
        if ending.tail:
            sent += mlflow_run.send_tail()
        mlflow_run.end(ending)
        mlflow_run.show_files(ending.artifacts)
        mlflow_run.send_analyses()
    except RunDirectoryError:
        raise
    except MlflowMissingError as error:
        raise RunDirectoryError(f"{run.path}: {error}") from error
    except Exception as error:  # MLflow, its database and the network raise many kinds
        raise RunDirectoryError(
            f"{run.path}: MLflow at {target} does not take it ({first_line(error)}): call this again when it does"
        ) from error
    return sent


def sync_analyses(run_dir: Path) -> str | None:
    """Send what `cait analyse` wrote into a run that is in MLflow already. It fails in no way but by saying so.

    Args:
        run_dir: of any run

    Returns:
        a line that says what became of it; None where the run is not mirrored
    """
    run = RunDirectory(run_dir)
    if not run.mirror.is_file():
        return None
    later = f"`cait track sync {run_dir}` sends them later"
    if run.is_live():
        return f"{run_dir} is at work: it sends these files to MLflow at its end"
    try:
        with _alone(run):
            place = place_of(run)
            mlflow_run = MlflowRun(run, place.uri, "", tell=_warn, check=_fence(run))
            if not _has_database(place.uri) or not mlflow_run.reopen():
                return f"MLflow at {place.uri} does not have this run any more: {later}"
            new = mlflow_run.send_analyses()
    except RunDirectoryError as error:
        return f"MLflow does not have these files: {error}; {later}"
    except Exception as error:  # MLflow, its database and the network raise many kinds
        return f"MLflow does not have these files ({first_line(error)}): {later}"
    return (
        f"sent to MLflow at {place.uri}, under analysis/: {new} new"
        if new
        else f"MLflow at {place.uri} has these files already"
    )


def _has_database(uri: str) -> bool:
    """A database file that is gone would be made anew."""
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


def _fence(run: RunDirectory) -> Callable[[], None]:
    """An attempt that begins meanwhile mirrors itself."""
    attempts = len(run.attempts())

    def check() -> None:
        if not run.is_latest(attempts):
            raise RunDirectoryError(f"{run.path} is being trained now and mirrors itself: call this when it has ended")

    return check


@contextmanager
def _alone(run: RunDirectory) -> Iterator[None]:
    """Keep a second call out, which would make a second run in MLflow. Training may begin: it has a lock of its own."""
    with (run.path / ".sync.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(f"{run.path} is being sent by another process: wait for it") from None
        yield
