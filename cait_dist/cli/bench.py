"""`cait bench …`: measure on your own data and machine."""

from pathlib import Path
from typing import Annotated
from warnings import catch_warnings, filterwarnings

import typer

from .arguments import ConfigFile, Overrides

bench_app = typer.Typer(help="Measure on your own data and machine.", no_args_is_help=True)


@bench_app.command("data")
def bench_data(
    config: ConfigFile,
    overrides: Overrides = None,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="share of its peak that a GPU is assumed to reach")] = 0.4,
    seconds: Annotated[float, typer.Option(min=0.1, help="to measure the parts, and again the whole")] = 5.0,
    cold: Annotated[bool, typer.Option("--cold", help="drop the shards from the page cache, time reads too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print all numbers instead")] = False,
) -> None:
    """Measure the input of a run: which part limits it, and how many GPUs it can feed.

    The plan of a run warns where its input is too slow, if told what one node makes:

      cait plan my.yaml --loader-images-per-second $(cait bench data my.yaml --json | jq .node_images_per_second)
    """
    from cait_dist.config import load_config  # noqa: PLC0415
    from cait_dist.planning.input.bench import bench_input  # noqa: PLC0415

    loaded = load_config(config, overrides or []).config
    report = bench_input(loaded, seconds, cold=cold)
    if as_json:
        import json  # noqa: PLC0415

        from cait_dist.planning.input.report_json import report_as_dict  # noqa: PLC0415

        typer.echo(json.dumps(report_as_dict(loaded, report, mfu), indent=1))
    else:
        from cait_dist.planning.input.report import print_report  # noqa: PLC0415

        print_report(loaded, report, mfu)


@bench_app.command("step")
def bench_step(
    config: ConfigFile,
    overrides: Overrides = None,
    calibration: Annotated[
        Path | None, typer.Option(help="file to write, or to add to", show_default="user's cache")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="images at once", show_default="the configured limit, at most 64")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="to spend on each part")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="real training steps to hold the rates against")] = 5,
) -> None:
    """Measure this device's rates at the shapes of a run, for `cait plan`; and check them with its real step."""
    from rich.console import Console  # noqa: PLC0415

    from cait_dist.config import load_config  # noqa: PLC0415
    from cait_dist.planning.rates.calibration import add_to_file, default_path  # noqa: PLC0415
    from cait_dist.planning.rates.step_table import print_check  # noqa: PLC0415
    from cait_dist.training.timing.bench_step import bench_step  # noqa: PLC0415

    path = calibration or default_path()
    loaded = load_config(config, overrides or []).config
    with Console(stderr=True).status("") as status, catch_warnings():
        # DeepSpeed calls a function of torch by a name that will go.
        filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        found = bench_step(loaded, micro_batch, seconds, steps, lambda what: status.update(f"measuring {what}"))
    print_check(found.calibration, found.predicted, found.measured, found.images)
    add_to_file(found.calibration, path)
    typer.echo(f"wrote {path}")
