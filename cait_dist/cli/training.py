"""`cait train` and `cait export`: from shards to weights, on this machine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import ConfigFile, Overrides, RunDir
from .outputs import output_folder

if TYPE_CHECKING:
    from cait_dist.models import Architecture


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
    fold: Annotated[
        bool, typer.Option(help="fold LayerScale into the weights: same outputs, for model.residual=pre_norm")
    ] = False,
    own: Annotated[bool, typer.Option(help="write a variant that timm and deit have no model for")] = False,
) -> None:
    """Write the weights of a run as one file that timm and deit can load."""
    from cait_dist.models.folding import FOLDED, fold_file, folded_architecture  # noqa: PLC0415
    from cait_dist.models.foreign import refuse_foreign  # noqa: PLC0415
    from cait_dist.training.saving.export import export_weights  # noqa: PLC0415

    architecture = _architecture_of(run_dir)
    if not fold:
        if not own:
            refuse_foreign(architecture)
        output_folder(out.parent)
        typer.echo(export_weights(run_dir, out, weights, step))
        return
    folded_architecture(architecture)
    with TemporaryDirectory(dir=output_folder(out.parent)) as aside:
        unfolded = Path(aside) / out.name
        message = export_weights(run_dir, unfolded, weights, step)
        fold_file(unfolded, out)
    typer.echo(f"{message.replace(str(unfolded), str(out))}, LayerScale folded: load them with model.residual={FOLDED}")


def _architecture_of(run_dir: Path) -> "Architecture":
    from cait_dist.config import load_config  # noqa: PLC0415
    from cait_dist.models import architecture  # noqa: PLC0415
    from cait_dist.tracking.run_directory import RunDirectory  # noqa: PLC0415

    model = load_config(RunDirectory.existing(run_dir).config).config.model
    return architecture(model.name, **model.overrides)
