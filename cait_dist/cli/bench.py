"""`cait bench …`: measure on your own data and machine."""

from typing import Annotated

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
) -> None:
    """Measure the input of a run: which part limits it, and how many GPUs it can feed."""
    from cait_dist.config import load_config  # noqa: PLC0415
    from cait_dist.planning.input_bench import bench_input  # noqa: PLC0415
    from cait_dist.planning.input_report import print_report  # noqa: PLC0415

    loaded = load_config(config, overrides or []).config
    print_report(loaded, bench_input(loaded, seconds, cold=cold), mfu)
