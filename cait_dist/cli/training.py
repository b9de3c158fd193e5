"""`cait train` and `cait export`: from shards to weights, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import ConfigFile, Overrides, RunDir


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="ranks on this machine; default: one per GPU, or one")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="instead of runs_dir/name of the configuration")] = None,
    resume: Annotated[str, typer.Option(help="auto: go on where the run stopped | never | a step")] = "auto",
) -> None:
    """Train on this machine. Ctrl-C saves and stops; the same command goes on from there."""
    from launch.train import train_locally  # noqa: PLC0415

    raise typer.Exit(train_locally(config, overrides or [], processes, run_dir, resume))


def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option(help="file to write: .safetensors (timm's names) or .pth (deit's)")],
    weights: Annotated[str, typer.Option(help="raw or ema")] = "raw",
    step: Annotated[int | None, typer.Option(help="of the checkpoint; default: the newest")] = None,
) -> None:
    """Write the weights of a run as one file that timm and deit can load."""
    from cait_dist.training.export import export_weights  # noqa: PLC0415

    typer.echo(export_weights(run_dir, out, weights, step))
