"""The `cait` command: one thin function per sub-command, in the order of the work. Nothing is computed here.

Every form is ``cait COMMAND CONFIG.yaml key=value …``. Packages are imported by the command that needs them, so that
``cait --help`` answers at once. Wrong input ends with one clear message and status 2.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train the CaiT vision transformer: shard images, train with DeepSpeed ZeRO, track in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at a configuration before anything is started.", no_args_is_help=True)
track_app = typer.Typer(help="MLflow: look at the runs, or send what it lacks.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(track_app, name="track")
bench_app = typer.Typer(help="Measure on your own data and machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

ConfigFile = Annotated[Path, typer.Argument(help="YAML file, e.g. configs/digits.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings that win over the file, e.g. optimizer.lr=1e-3", show_default=False)
]
_SOURCE = "folder of images, ILSVRC archives, tars or parquet files; or the word digits"
RunDir = Annotated[Path, typer.Argument(help="run directory, e.g. runs/digits", show_default=False)]


@app.command()
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


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="folder written by `cait prep`")],
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one per core")] = None,
) -> None:
    """Read every shard again: checksums, counts, labels, and every image decoded. Status 1 if anything is wrong."""
    from data_prep.verify import verify as verify_dataset  # noqa: PLC0415

    report = verify_dataset(directory, workers=workers or os.cpu_count() or 1, progress=True)
    typer.echo(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
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


@app.command()
def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option(help="file to write: .safetensors (timm's names) or .pth (deit's)")],
    weights: Annotated[str, typer.Option(help="raw or ema")] = "raw",
    step: Annotated[int | None, typer.Option(help="of the checkpoint; default: the newest")] = None,
) -> None:
    """Write the weights of a run as one file that timm and deit can load."""
    from cait_dist.training.export import export_weights  # noqa: PLC0415

    typer.echo(export_weights(run_dir, out, weights, step))


@config_app.command("show")
def config_show(
    config: ConfigFile,
    overrides: Overrides = None,
    origins: Annotated[bool, typer.Option("--origins", help="tell where each value comes from")] = False,
) -> None:
    """Print the configuration with everything resolved."""
    from cait_dist.config import config_to_yaml, describe, load_config  # noqa: PLC0415

    loaded = load_config(config, overrides or [])
    typer.echo(describe(loaded) if origins else config_to_yaml(loaded.config), nl=False)


@config_app.command("fields")
def config_fields() -> None:
    """List every setting with its type, default and meaning."""
    from cait_dist.config import schema_help  # noqa: PLC0415

    typer.echo(schema_help(), nl=False)


@config_app.command("validate")
def config_validate(
    configs: Annotated[list[Path], typer.Argument(help="YAML files", show_default=False)],
) -> None:
    """Check files and report all errors at once. Data and hardware are not touched."""
    from cait_dist.config import ConfigError, Problem, load_config  # noqa: PLC0415

    problems: list[Problem] = []
    for path in configs:
        try:
            load_config(path)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    typer.echo(f"{len(configs)} files are valid")


@config_app.command("diff")
def config_diff(
    first: ConfigFile,
    second: ConfigFile,
) -> None:
    """Print the settings in which two configurations differ, defaults resolved."""
    from cait_dist.config import diff, load_config  # noqa: PLC0415

    for key, before, after in diff(load_config(first).config, load_config(second).config):
        typer.echo(f"{key}: {before} → {after}")


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


@bench_app.command("data")
def bench_data(
    config: ConfigFile,
    overrides: Overrides = None,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="share of its peak that a GPU is assumed to reach")] = 0.4,
    seconds: Annotated[float, typer.Option(min=0.1, help="to measure the parts, and again the whole")] = 5.0,
    cold: Annotated[bool, typer.Option("--cold", help="drop the shards from the page cache, time reads too")] = False,
) -> None:
    """Measure the input of a run: which part limits it, and how many GPUs it can feed."""
    from cait_dist.config import load_config  # noqa: PLC0415
    from cait_dist.planning.input_bench import bench_input  # noqa: PLC0415
    from cait_dist.planning.input_report import print_report  # noqa: PLC0415

    loaded = load_config(config, overrides or []).config
    print_report(loaded, bench_input(loaded, seconds, cold=cold), mfu)


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
