"""`cait analyse …`: look into a trained model, of a run or of a file of weights."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .outputs import output_folder

if TYPE_CHECKING:
    from cait_dist.analysis import Subject

_T = TypeVar("_T")

analyse_app = typer.Typer(
    help="Look into a trained model: what its layers add, scale and mix, and where it looks.\n\n"
    "Each takes a run (runs/NAME), one of its checkpoints, or a file of weights (.safetensors, or .pth of deit or"
    " timm), and writes values and a picture, by default into RUN/analysis/.",
    no_args_is_help=True,
)

Place = Annotated[Path, typer.Argument(metavar="RUN|FILE", help="run, checkpoint or weights", show_default=False)]
Step = Annotated[str | None, typer.Option(metavar="N|newest", help="which checkpoint; default: newest")]
Weights = Annotated[str, typer.Option(help="raw, or ema: the moving average")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="folder to write; default: RUN/analysis/step-…")]
Images = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE|DIR", help="image or folder of images, repeatable; default: the run's first set"),
]
Batch = Annotated[int, typer.Option(min=1, help="images at once")]


@analyse_app.command("residual-norms")
def residual_norms(
    place: Place,
    images: Images = None,
    count: Annotated[int, typer.Option(min=1, help="images to average over")] = 64,
    step: Step = None,
    weights: Weights = "raw",
    out: Out = None,
    batch: Batch = 16,
) -> None:
    """How much each branch adds, per layer.

    The norm of what is added over the norm of what it is added to, ‖branch‖ / ‖main branch‖: mean over tokens and
    images, as JSON and SVG. LayerScale is there to make this even over a deep network. A branch near zero contributes
    nothing; one near or above one rewrites its input.
    """
    from cait_dist.analysis import figures  # noqa: PLC0415

    subject = _subject(place, step, weights)
    folder = output_folder(out or subject.folder)
    _tell(subject, figures.residual_norms(subject, folder, images or [], count, batch, _progress))


@analyse_app.command("attention-maps")
def attention_maps(
    place: Place,
    images: Images = None,
    count: Annotated[int, typer.Option(min=1, help="most images on the sheet")] = 6,
    step: Step = None,
    weights: Weights = "raw",
    out: Out = None,
    batch: Batch = 16,
) -> None:
    """Where the class token looks, per layer and head.

    Its attention over the patches, laid over each image, for the class-attention layers: PNG and npz. Above each map
    stand the largest share that a patch gets, and the share that the class token keeps to itself. Each map has its own
    scale. After an image's name stands the class that the model takes it for.
    """
    from cait_dist.analysis import figures  # noqa: PLC0415

    subject = _subject(place, step, weights)
    folder = output_folder(out or subject.folder)
    _tell(subject, figures.attention_maps(subject, folder, images or [], count, batch, _progress))


@analyse_app.command("layer-scale")
def layer_scale(place: Place, step: Step = None, weights: Weights = "raw", out: Out = None) -> None:
    """What LayerScale has learned: |γ| per layer.

    Mean and quantiles over the channels of each branch, as JSON and SVG. Needs no images.
    """
    from cait_dist.analysis import figures  # noqa: PLC0415

    subject = _subject(place, step, weights)
    _tell(subject, figures.layer_scale(subject, output_folder(out or subject.folder)))


@analyse_app.command("head-mixing")
def head_mixing(place: Place, step: Step = None, weights: Weights = "raw", out: Out = None) -> None:
    """How attention heads are mixed, per layer.

    The matrices of talking heads, before and after the softmax of each self-attention layer, as JSON and SVG. Needs no
    images.
    """
    from cait_dist.analysis import figures  # noqa: PLC0415

    subject = _subject(place, step, weights)
    _tell(subject, figures.mixing(subject, output_folder(out or subject.folder)))


def _subject(place: Path, step: str | None, weights: str) -> "Subject":
    from cait_dist.analysis import subject_of_file, subject_of_run  # noqa: PLC0415

    if place.is_file():
        return subject_of_file(place)
    from cait_dist.training.saving.saved_weights import open_weights  # noqa: PLC0415

    return subject_of_run(*open_weights(place, step, weights))


def _tell(subject: "Subject", files: list[Path]) -> None:
    for path in files:
        typer.echo(f"wrote {path}")
    if "run" in subject.source:
        _mirror(Path(subject.source["run"]), files)


def _mirror(run_dir: Path, files: list[Path]) -> None:
    """What lies in the run directory, MLflow shows."""
    from cait_dist.tracking.sync import sync_analyses  # noqa: PLC0415

    inside = (run_dir / "analysis").resolve()
    if any(path.resolve().is_relative_to(inside) for path in files) and (news := sync_analyses(run_dir)):
        typer.echo(news, err=True)


def _progress(batches: Iterable[_T], total: int) -> Iterator[_T]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    errors = Console(stderr=True)
    yield from track(batches, "watching", total=total, console=errors, transient=True, disable=not errors.is_terminal)
