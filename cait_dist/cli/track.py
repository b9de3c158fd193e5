"""`cait track …`: MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import RunDir

track_app = typer.Typer(help="MLflow: serve it, look at the runs, send what it lacks.", no_args_is_help=True)

RunsDir = Annotated[Path, typer.Argument(help="folder of run directories")]
Uri = Annotated[str | None, typer.Option(help="MLflow server or database; default: the run's own")]


@track_app.command("ui")
def track_ui(
    runs_dir: RunsDir = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="of the web page")] = 5000,
) -> None:
    """Open MLflow's web page on the runs of this folder, for this machine only."""
    from cait_dist.tracking.serve import serve_ui  # noqa: PLC0415

    raise typer.Exit(serve_ui(runs_dir, port))


@track_app.command("serve")
def track_serve(
    runs_dir: RunsDir = Path("runs"),
    backend: Annotated[
        str | None, typer.Option(help="postgresql://… or sqlite:///…; default: RUNS_DIR/mlflow.db")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: all of this machine's")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    allowed_hosts: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="names that clients call it by; default: this machine's own")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that answer")] = 2,
    artifacts: Annotated[
        str | None, typer.Option(help="folder or URI for files; default: RUNS_DIR/mlflow-artifacts")
    ] = None,
) -> None:
    """Serve MLflow to many runs on many machines. For a database with a password, set PGPASSWORD or ~/.pgpass."""
    from cait_dist.tracking.serve import Server, serve  # noqa: PLC0415

    names = tuple(name.strip() for name in (allowed_hosts or "").split(",") if name.strip())
    raise typer.Exit(serve(Server(runs_dir, backend, host, port, names, workers, artifacts), typer.echo))


@track_app.command("sync")
def track_sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="run directories", show_default=False)],
    uri: Uri = None,
) -> None:
    """Send what these runs hold and MLflow lacks. Calling it again sends nothing twice."""
    from cait_dist.tracking.sync import sync_runs  # noqa: PLC0415

    raise typer.Exit(sync_runs(run_dirs, uri))


@track_app.command("register")
def track_register(
    run_dir: RunDir,
    name: Annotated[str, typer.Argument(help="of the model in MLflow's registry", show_default=False)],
    alias: Annotated[list[str] | None, typer.Option(help="shall name this version, e.g. champion; repeatable")] = None,
    weights: Annotated[str, typer.Option(help="raw or ema")] = "raw",
    uri: Uri = None,
) -> None:
    """Upload the newest weights of a run, and make a version of a model of them."""
    from cait_dist.training.saving.registration import register_run  # noqa: PLC0415

    typer.echo(register_run(run_dir, name, weights, tuple(alias or ()), uri))
