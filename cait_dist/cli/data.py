"""`cait prep` and `cait verify`: from images to shards."""

import os
from pathlib import Path
from typing import Annotated

import typer

_SOURCE = "folder of images, ILSVRC archives, tars or parquet files; or the word digits"


def prep(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=_SOURCE, show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write, one sub-folder per split")],
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, help="processes; default: as many as pay")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="of the shuffle and of --val-share")] = 0,
    shard_samples: Annotated[int | None, typer.Option(metavar="N", min=1, help="most in a shard")] = None,
    image_size: Annotated[int, typer.Option(metavar="N", min=8, help="digits only: side in pixels")] = 32,
    resize: Annotated[int | None, typer.Option(metavar="N", min=1, help="shrink to a shorter side of N pixels")] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="of a folder of classes, e.g. v2")] = "train",
    real: Annotated[Path | None, typer.Option(metavar="FILE", help="ReaL labels of val, JSON")] = None,
    formats: Annotated[str, typer.Option("--format", help="webdataset, ffcv or both")] = "webdataset",
    ffcv_mode: Annotated[str, typer.Option(help="images in betons: jpg (as they are), raw, proportion")] = "jpg",
    val_share: Annotated[float, typer.Option(metavar="X", min=0, max=0.9, help="of train, if there is no val")] = 0.0,
    max_broken: Annotated[float, typer.Option(metavar="X", min=0, max=1, help="share to put up with")] = 0.01,
) -> None:
    """Shard images into WebDataset tars, FFCV betons, or both. Killed at any moment, a second call goes on.

    \b
    cait prep IMAGES --out data/mine       IMAGES/train/CLASS/*.jpg, and val
    cait prep ILSVRC --out data/imagenet   the archives and the devkit, as they are
    cait prep V2 --out data/imagenet-v2 --split v2
    """  # noqa: D301 - the mark that keeps lines apart is a character, not two
    from data_prep.formats import parse_formats, parse_mode, prepare  # noqa: PLC0415
    from data_prep.plan import make_plan  # noqa: PLC0415
    from data_prep.real_labels import read_real_labels  # noqa: PLC0415
    from data_prep.sources import open_source  # noqa: PLC0415

    chosen, mode = parse_formats(formats), parse_mode(ffcv_mode)
    images = open_source(source, image_size=image_size, val_share=val_share, seed=seed, split=split)
    plan = make_plan(images, out, seed=seed, shard_size=shard_samples, max_broken=max_broken, resize=resize)
    labels = read_real_labels(real, plan) if real else None
    typer.echo(prepare(plan, chosen, mode, workers=workers))
    if labels:
        typer.echo(f"ReaL labels: {labels.write(plan)}")


def verify(
    directory: Annotated[Path, typer.Argument(help="folder written by `cait prep`")],
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one per core")] = None,
) -> None:
    """Read every shard again: checksums, counts, labels, and every image decoded. Status 1 if anything is wrong."""
    from data_prep.verify import verify as verify_dataset  # noqa: PLC0415

    report = verify_dataset(directory, workers=workers or os.cpu_count() or 1, progress=True)
    typer.echo(report)
    raise typer.Exit(0 if report.ok else 1)
