"""`cait chaos`: faults on purpose."""

from pathlib import Path
from typing import Annotated

import typer

from .cluster_options import Cluster

LOCAL = "local"


def chaos(
    faults: Annotated[list[str] | None, typer.Argument(help="which; default: all", show_default=False)] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="for runs and results; shared by all nodes")] = Path("chaos"),
    times: Annotated[int, typer.Option(metavar="N", min=1, help="strikes of each fault")] = 5,
    seed: Annotated[int, typer.Option(help="of moments and victims")] = 0,
    config: Annotated[Path | None, typer.Option(help="of the runs; default: digits on 4 ranks", exists=True)] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="of it (repeat)")] = None,
    cluster: Cluster = LOCAL,
    show: Annotated[bool, typer.Option("--list", help="print the faults and end")] = False,
) -> None:
    """Harm a small run on purpose, again and again: does it survive, what does it cost, is the result the same?

    Without --cluster on a real small Slurm cluster on this machine, where nodes lose power and networks are cut. With
    a profile of yours on your cluster, where only your own processes and files are harmed. A second call goes on.
    Status 1 if any run ended in another way than the undisturbed one.
    """
    from launch.chaos.faults import FAULTS, choose_faults  # noqa: PLC0415
    from launch.chaos.report import table  # noqa: PLC0415
    from launch.chaos.suite import Plan, run_suite  # noqa: PLC0415

    mini = cluster == LOCAL
    if show:
        for fault in FAULTS.values():
            typer.echo(f"{fault.name:21} {fault.story}{' (small cluster only)' if fault.needs_mini else ''}")
        return
    chosen = choose_faults(faults or [], mini=mini)
    place = config.absolute() if config else None
    plan = Plan(out.absolute(), chosen, times, seed, place, tuple(setting or ()), None if mini else cluster)
    results = run_suite(plan, typer.echo)
    typer.echo(f"\n{table(results)}\nreport     {plan.folder / 'report.md'}")
    raise typer.Exit(0 if all(result.ok for result in results) else 1)
