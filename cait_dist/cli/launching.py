"""`cait launch` and its company: from one machine to a cluster."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import ConfigFile, Overrides, RunDir
from .cluster_options import Cluster, DryRun, takes_profile_options


@takes_profile_options()
def launch(
    config: ConfigFile,
    overrides: Overrides = None,
    cluster: Cluster = "local",
    *,
    options: dict[str, Any],
    array: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="0-4%2: a run for each seed, two at a time")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Submit a training run to SLURM. Preempted, timed out or losing a node, it comes back and goes on.

    The same command again goes on with a run whose job has ended. `--cluster local` trains here, in the foreground.
    """
    if array is not None:
        from launch.sweep_axes import read_array  # noqa: PLC0415

        seeds, parallel = read_array(array)
        return _sweep(config, [*(overrides or []), seeds], cluster, options, parallel, None, dry_run)
    if cluster == "local":
        raise typer.Exit(_train_here(config, overrides or [], options))
    from launch.submit import dry_run as describe  # noqa: PLC0415
    from launch.submit import read_order, submit  # noqa: PLC0415

    order = read_order(config, overrides or [], cluster, options)
    if dry_run:
        return typer.echo(describe(order), nl=False)
    record = submit(order)
    run = order.config.run_dir
    typer.echo(f"Submitted job {record.job_id}: {record.nodes} nodes × {record.tasks_per_node} tasks, {run}")
    return _say_how_to_go_on(f"cait logs {run} --follow", run)


@takes_profile_options()
def sweep(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings; several values make an axis: seed=0..2 optimizer.lr=1e-3,5e-4")
    ] = None,
    cluster: Cluster = "local",
    parallel: Annotated[int | None, typer.Option(min=1, help="most members at a time; default: all")] = None,
    only: Annotated[str | None, typer.Option(metavar="PATTERN", help="members by name, e.g. 'lr_1e-3-*'")] = None,
    *,
    options: dict[str, Any],
    dry_run: DryRun = False,
) -> None:
    """Train every combination of several values: one job array, one parent run in MLflow, a run for each member.

    The same command again goes on with the members that are neither finished nor in the queue.
    """
    _sweep(config, overrides or [], cluster, options, parallel, only, dry_run)


def status(
    place: Annotated[Path, typer.Argument(help="run directory, or a folder of runs")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show runs: state, step, speed, remaining time, checkpoint, restarts, and what they wait for or died of.

    Runs whose job is gone without a word are marked in MLflow, which would show them as running for ever.
    """
    from launch.status import mark_lost, statuses  # noqa: PLC0415
    from launch.status_table import as_lines, print_statuses  # noqa: PLC0415

    found = statuses(place)
    if as_json:
        typer.echo(as_lines(found))
    else:
        print_statuses(found)
    for line in mark_lost(place):
        typer.echo(line, err=True)


def logs(
    run_dir: RunDir,
    rank: Annotated[int | None, typer.Option(min=0, help="of this rank; default: the job, which rank 0 shares")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="of the rank's log; default: the newest")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job has ended")] = False,
) -> None:
    """Print the log of a run's job: every start, the training lines of rank 0, every end and why."""
    from launch.logs import read_logs  # noqa: PLC0415

    for piece in read_logs(run_dir, rank, attempt, follow):
        typer.echo(piece, nl=False)


def cancel(
    place: Annotated[Path, typer.Argument(help="run directory, or a folder of runs", show_default=False)],
    now: Annotated[bool, typer.Option("--now", help="do not wait for the checkpoint")] = False,
) -> None:
    """End the job of a run, or of all runs in a folder. A running job saves first; `cait launch` goes on with it."""
    from launch.cancel import cancel_runs  # noqa: PLC0415

    for line in cancel_runs(place, now):
        typer.echo(line)


def _say_how_to_go_on(logs: str, place: Path) -> None:
    typer.echo(f"follow     {logs}")
    typer.echo(f"look       cait status {place}")
    typer.echo(f"end        cait cancel {place}")


def _processes(options: dict[str, Any]) -> int | None:
    from launch.profile import refuse_cluster_options  # noqa: PLC0415

    refuse_cluster_options(options)
    return options["tasks_per_node"] or options["gpus_per_node"]


def _train_here(config: Path, overrides: list[str], options: dict[str, Any]) -> int:
    from launch.train import train_locally  # noqa: PLC0415

    return train_locally(config, overrides, _processes(options), None, "auto")


def _sweep(
    config: Path,
    arguments: list[str],
    cluster: str,
    options: dict[str, Any],
    parallel: int | None,
    only: str | None,
    dry_run: bool,
) -> None:
    from launch.sweep import describe, read_sweep, run_here, submit_sweep  # noqa: PLC0415

    asked = read_sweep(config, arguments)
    if dry_run:
        typer.echo(describe(asked, cluster, options, parallel, only))
    elif cluster == "local":
        raise typer.Exit(run_here(asked, _processes(options), only))
    elif records := submit_sweep(asked, cluster, options, parallel, only):
        typer.echo(f"Submitted array {records[0].array_id}: {len(records)} members, {asked.folder}")
        _say_how_to_go_on(f"cait logs {asked.folder}/MEMBER --follow", asked.folder)
    else:
        typer.echo(f"every member of {asked.folder} is finished or in the queue: nothing to do")
