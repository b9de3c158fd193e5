"""`cait evaluate`: measure checkpoints, here or as a job of a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Overrides
from .cluster_options import Cluster, DryRun, refuse_without_cluster, takes_profile_options

if TYPE_CHECKING:
    from cait_dist.training.evaluating.request import Request

Run = Annotated[Path, typer.Argument(metavar="RUN", help="run, or one of its checkpoints", show_default=False)]
OneGpu = Annotated[int | None, typer.Option("--gpus-per-node", "--gpus", min=0, max=1, help="0: none; default: 1")]


@takes_profile_options("nodes", "tasks_per_node", "comment", gpus_per_node=OneGpu)
def evaluate(
    run: Run,
    overrides: Overrides = None,
    step: Annotated[str | None, typer.Option(metavar="N|newest|all", help="which checkpoint; default: newest")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="raw, ema, or both in turn; default: the run's")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="NAME", help="default: all of the run")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="every new checkpoint, until the run ends")] = False,
    cluster: Cluster = "local",
    *,
    options: dict[str, Any],
    dry_run: DryRun = False,
) -> None:
    """Measure checkpoints of a run on its evaluation sets. What is known already is not measured again."""
    if cluster == "local":
        gpus = options["gpus_per_node"]
        refuse_without_cluster({**options, "gpus_per_node": None}, gpus=gpus, dry_run=dry_run or None)
    from cait_dist.training.evaluating.request import Request  # noqa: PLC0415

    request = Request(run, step, tuple(weights or ()), tuple(sets or ()), follow, tuple(overrides or ()))
    if cluster != "local":
        _submit(request, cluster, options, dry_run)
        return
    from cait_dist.training.evaluating.run import Evaluation  # noqa: PLC0415

    Evaluation(request, typer.echo).work()


def _submit(request: "Request", cluster: str, options: dict[str, Any], dry_run: bool) -> None:
    from launch.evaluate import plan_evaluation, submit_evaluation  # noqa: PLC0415

    job = plan_evaluation(request, cluster, options)
    if dry_run:
        typer.echo(job.script, nl=False)
        return
    job_id, log = submit_evaluation(job)
    typer.echo(f"Submitted job {job_id}: evaluates {job.run_dir}")
    typer.echo(f"follow     tail -f {log}")
    typer.echo(f"look       squeue --jobs={job_id}")
    typer.echo(f"end        scancel {job_id}")
