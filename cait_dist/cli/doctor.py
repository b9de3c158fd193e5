"""`cait doctor`: is this machine able to train?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import Overrides
from .cluster_options import takes_profile_options


@takes_profile_options("cpus_per_task", "memory_gb", "comment")
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="a run's YAML file: look at its data and MLflow too", show_default=False)
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    cluster: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="look at nodes of this cluster, together, as a job")
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Look at this machine, and at what a run needs; status 0 if it can train, 1 if something refuses.

    With --cluster: GPUs, drivers, clocks, the shared folder, arithmetic and network of the nodes a job would get.
    """
    if cluster is not None:
        raise typer.Exit(_look_at(cluster, options, config, overrides or []))
    import json  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    from cait_dist.config import load_config  # noqa: PLC0415
    from launch.check.doctor import examine, is_fit, render  # noqa: PLC0415

    checks = []
    for check in examine(None if config is None else load_config(config, overrides or []).config):
        checks.append(check)
        if not as_json:
            typer.echo(render(check))
    if as_json:
        typer.echo(json.dumps({"fit": is_fit(checks), "checks": [asdict(check) for check in checks]}, indent=2))
    raise typer.Exit(0 if is_fit(checks) else 1)


def _look_at(cluster: str, options: dict[str, Any], config: Path | None, overrides: list[str]) -> int:
    from cait_dist.config import load_config  # noqa: PLC0415
    from launch.check.job import follow, outcome, submit_check  # noqa: PLC0415
    from launch.profile import load_profile  # noqa: PLC0415

    runs_dir = Path("runs") if config is None else load_config(config, overrides).config.runs_dir
    job_id, folder = submit_check(
        load_profile(cluster, {**options, "time": options["time"] or "10", "signal_seconds": 30}), runs_dir
    )
    typer.echo(f"Submitted job {job_id}, its log: {folder}")
    for text in follow(job_id, folder):
        typer.echo(text, nl=False)
    return outcome(folder)
