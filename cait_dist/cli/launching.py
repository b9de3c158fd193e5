"""`cait launch` and its company: from one machine to a cluster."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import ConfigFile, Overrides, RunDir

Cluster = Annotated[str, typer.Option(metavar="PROFILE", help="name in slurm/profiles, a YAML file, or local")]
Nodes = Annotated[int | None, typer.Option("--nodes", "--nnodes", min=1, help="machines")]
GpusPerNode = Annotated[int | None, typer.Option("--gpus-per-node", "--gpus", "--ngpus", min=0, help="on each")]
TasksPerNode = Annotated[int | None, typer.Option(min=1, help="processes on each; default: one per GPU")]
CpusPerTask = Annotated[int | None, typer.Option(min=1, help="cores per process")]
Memory = Annotated[float | None, typer.Option("--mem", min=0, metavar="GB", help="per node; 0: all of it")]
Time = Annotated[str | None, typer.Option("--time", "--timeout", help="limit: minutes, H:MM:SS or D-HH:MM:SS")]
Partition = Annotated[str | None, typer.Option(help="partition")]
Account = Annotated[str | None, typer.Option(help="account to charge")]
Qos = Annotated[str | None, typer.Option(help="quality of service")]
Constraint = Annotated[str | None, typer.Option(help="features that nodes must have")]
Exclude = Annotated[str | None, typer.Option(metavar="NODES", help="nodes to avoid")]
Comment = Annotated[str | None, typer.Option(help="shown by squeue and sacct")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print plan and script, submit nothing")]


def launch(
    config: ConfigFile,
    overrides: Overrides = None,
    cluster: Cluster = "local",
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    tasks_per_node: TasksPerNode = None,
    cpus_per_task: CpusPerTask = None,
    memory_gb: Memory = None,
    time: Time = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    exclude: Exclude = None,
    comment: Comment = None,
    array: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="0-4%2: a run for each seed, two at a time")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Submit a training run to SLURM. Preempted, timed out or losing a node, it comes back and goes on.

    The same command again goes on with a run whose job has ended. `--cluster local` trains here, in the foreground.
    """
    options = profile_options(locals())
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


def sweep(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings; several values make an axis: seed=0..2 optimizer.lr=1e-3,5e-4")
    ] = None,
    cluster: Cluster = "local",
    parallel: Annotated[int | None, typer.Option(min=1, help="most members at a time; default: all")] = None,
    only: Annotated[str | None, typer.Option(metavar="PATTERN", help="members by name, e.g. 'lr_1e-3-*'")] = None,
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    tasks_per_node: TasksPerNode = None,
    cpus_per_task: CpusPerTask = None,
    memory_gb: Memory = None,
    time: Time = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    exclude: Exclude = None,
    comment: Comment = None,
    dry_run: DryRun = False,
) -> None:
    """Train every combination of several values: one job array, one parent run in MLflow, a run for each member.

    The same command again goes on with the members that are neither finished nor in the queue.
    """
    _sweep(config, overrides or [], cluster, profile_options(locals()), parallel, only, dry_run)


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


def profile_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that a cluster profile has too."""
    known = (
        "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "memory_gb", "time", "partition", "account", "qos",
        "constraint", "exclude", "comment",
    )  # fmt: skip
    return {key: value for key, value in given.items() if key in known}


def refuse_without_cluster(options: dict[str, Any], **more: Any) -> None:
    """Refuse options that only a cluster understands; those that are None were not given.

    Raises:
        ConfigError: naming them
    """
    from launch.profile import refuse_cluster_options  # noqa: PLC0415

    refuse_cluster_options({"nodes": None, **options, **more})


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
