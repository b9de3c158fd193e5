"""`cait track …`: MLflow."""

from pathlib import Path
from typing import Annotated

import typer

track_app = typer.Typer(help="MLflow: look at the runs, or send what it lacks.", no_args_is_help=True)


@track_app.command("ui")
def track_ui(
    runs_dir: Annotated[Path, typer.Argument(help="folder of run directories")] = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="of the web page")] = 5000,
) -> None:
    """Open MLflow's web page on the runs of this folder, for this machine only."""
    from cait_dist.tracking.serve import serve_ui  # noqa: PLC0415

    raise typer.Exit(serve_ui(runs_dir, port))


@track_app.command("sync")
def track_sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="run directories", show_default=False)],
    uri: Annotated[str | None, typer.Option(help="MLflow server or database; default: the run's own")] = None,
) -> None:
    """Send what these runs hold and MLflow lacks. Calling it again sends nothing twice."""
    from cait_dist.tracking.sync import sync_to_mlflow  # noqa: PLC0415

    for run_dir in run_dirs:
        typer.echo(sync_to_mlflow(run_dir, uri))
