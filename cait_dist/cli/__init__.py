"""The `cait` command: one thin function per sub-command, in the order of the work. Nothing is computed here.

Every form is ``cait COMMAND CONFIG.yaml key=value …``. Packages are imported by the command that needs them, so that
``cait --help`` answers at once. Wrong input ends with one clear message and status 2.
"""

import sys
from typing import Annotated

import typer

from .analyse import analyse_app
from .bench import bench_app
from .chaos import chaos
from .cluster import cluster_app
from .compare import compare
from .config import config_app
from .data import prep, verify
from .doctor import doctor
from .evaluation import evaluate
from .launching import cancel, launch, logs, status, sweep
from .plan import plan
from .track import track_app
from .training import export, train

app = typer.Typer(
    help="Train the CaiT vision transformer: shard images, train with DeepSpeed ZeRO, track in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
commands = (prep, verify, plan, train, launch, sweep, status, logs, cancel, evaluate, export, compare, doctor, chaos)
for command in commands:
    app.command()(command)
app.add_typer(analyse_app, name="analyse")
app.add_typer(config_app, name="config")
app.add_typer(track_app, name="track")
app.add_typer(bench_app, name="bench")
app.add_typer(cluster_app, name="cluster")


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Options of the command itself."""
    if show:
        from cait_dist import __version__  # noqa: PLC0415

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command; what a user can mend is told in a few lines, with status 2."""
    try:
        app()
    except Exception as error:
        from cait_dist.errors import is_for_user  # noqa: PLC0415

        if not is_for_user(error):
            raise
        typer.echo(f"cait: {error}", err=True)
        sys.exit(2)
