"""`cait prep` and `cait verify`: from images to shards."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cluster_options import Cluster, DryRun, refuse_without_cluster, takes_profile_options

if TYPE_CHECKING:
    from launch.array import ArrayJob

_SOURCE = "folder of images, published archives, tars or parquet files; or the word digits"


@takes_profile_options("nodes", "gpus_per_node", "tasks_per_node", "comment")
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
    cluster: Cluster = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="members of the job array; default: 16")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="most members at a time; default: all")] = None,
    *,
    options: dict[str, Any],
    dry_run: DryRun = False,
) -> None:
    """Shard images into WebDataset tars, FFCV betons, or both. Killed at any moment, a second call goes on.

    With --cluster, a job array does it. The bytes are the same.

    \b
    cait prep IMAGES --out data/mine       IMAGES/train/CLASS/*.jpg, and val
    cait prep ILSVRC --out data/imagenet   the archives and the devkit, as they are
    cait prep CARS --out data/cars         so are CIFAR, Flowers and iNaturalist
    cait prep V2 --out data/imagenet-v2 --split v2
    """  # noqa: D301 - the mark that keeps lines apart is a character, not two
    if cluster == "local":
        refuse_without_cluster(options, jobs=jobs, parallel=parallel, dry_run=dry_run or None)
    else:
        from launch.array import Order, array_profile, plan_array  # noqa: PLC0415

        out, options["cpus_per_task"] = out.absolute(), options["cpus_per_task"] or workers
        profile = array_profile(source, out, cluster, options)
    from data_prep.formats import parse_formats, parse_mode, prepare  # noqa: PLC0415
    from data_prep.plan import make_plan  # noqa: PLC0415
    from data_prep.real_labels import read_real_labels  # noqa: PLC0415
    from data_prep.sources import open_source  # noqa: PLC0415

    chosen, mode = parse_formats(formats), parse_mode(ffcv_mode)
    images = open_source(source, image_size=image_size, val_share=val_share, seed=seed, split=split)
    plan = make_plan(images, out, seed=seed, shard_size=shard_samples, max_broken=max_broken, resize=resize)
    labels = read_real_labels(real, plan) if real else None
    if cluster != "local":
        place = None if Path(source).is_absolute() else Path.cwd()
        _submit(plan_array(Order(plan, chosen, mode, labels, place), profile, jobs, parallel), dry_run)
        return
    typer.echo(prepare(plan, chosen, mode, workers=workers))
    if labels:
        typer.echo(f"ReaL labels: {labels.write(plan)}")


def _submit(job: "ArrayJob", dry_run: bool) -> None:
    from launch.array import scripts_of, submit_array  # noqa: PLC0415

    if dry_run:
        typer.echo(f"{job}\n\n{scripts_of(job)}", nl=False)
        return
    ids = submit_array(job)
    if not ids:
        typer.echo(job.order.carry_out())
        return
    numbers = list(dict.fromkeys(job_id.partition("_")[0] for job_id in ids))
    what = job if len(numbers) > 1 else "all shards are there; it writes what is missing of the rest"
    typer.echo(f"Submitted {'jobs' if len(numbers) > 1 else 'job'} {' and '.join(numbers)}: {what}")
    typer.echo(f"watch      squeue --jobs={','.join(numbers)}")
    typer.echo(f"logs       {job.folder}/*_log.out; the last job's, which says what was done: {job.log(ids[-1])}")
    typer.echo(f"end        scancel {' '.join(numbers)}; the same command goes on")


def verify(
    directory: Annotated[Path, typer.Argument(help="folder written by `cait prep`")],
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one per core")] = None,
) -> None:
    """Read every shard again: checksums, counts, labels, and every image decoded. Status 1 if anything is wrong."""
    from data_prep.verify import verify as verify_dataset  # noqa: PLC0415

    report = verify_dataset(directory, workers=workers or os.cpu_count() or 1, progress=True)
    typer.echo(report)
    raise typer.Exit(0 if report.ok else 1)
