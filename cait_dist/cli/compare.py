"""`cait compare`: which run is better, whether that is real, and at what cost."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .outputs import writing

if TYPE_CHECKING:
    from cait_dist.compare.comparison import Comparison

EXIT_VIOLATED = 1

Runs = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="runs, sweeps, MLflow ids", show_default=False)]


def compare(
    runs: Runs = None,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="all runs of an MLflow experiment")] = None,
    sweep: Annotated[list[str] | None, typer.Option(metavar="FOLDER|ID", help="all members of a sweep")] = None,
    uri: Annotated[str | None, typer.Option(help="of MLflow; default: MLFLOW_TRACKING_URI, or runs/mlflow.db")] = None,
    metric: Annotated[str | None, typer.Option(help="that decides; default: the first set's top1")] = None,
    baseline: Annotated[str | None, typer.Option(metavar="RUN", help="that the others are held against")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="beside the published CaiT models")] = False,
    price: Annotated[float | None, typer.Option(min=0, help="of a device for an hour")] = None,
    target: Annotated[float | None, typer.Option(help="of the metric: how soon was it reached?")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with curves; one file, needs no network")] = None,
    csv: Annotated[Path | None, typer.Option(help="write a row per run")] = None,
    json: Annotated[Path | None, typer.Option(help="write everything but the curves")] = None,
    fail_if: Annotated[list[str] | None, typer.Option(metavar="CONDITION", help="then leave with status 1")] = None,
) -> None:
    """Compare runs: results over seeds, tests, settings, cost. For pipelines: --fail-if "val/top1 < baseline - 0.3"."""
    from cait_dist.compare.compare_runs import compare_runs  # noqa: PLC0415
    from cait_dist.compare.gate.judge import check_gate  # noqa: PLC0415
    from cait_dist.compare.reading.collect import collect  # noqa: PLC0415 - numpy

    found = collect(runs or [], experiment=experiment, sweeps=sweep or [], uri=uri, progress=_progress)
    comparison = compare_runs(found, metric=metric, baseline=baseline, paper=paper, price=price, target=target)
    # Before anything is written: a condition may be wrong.
    violations = [each for condition in fail_if or [] for each in check_gate(comparison, condition)]
    # Files first: whoever reads only the beginning of the table (`| head`) ends the command.
    _write(comparison, html, csv, json)
    _show(comparison)
    for path in filter(None, (html, csv, json)):
        typer.echo(f"wrote {path}")
    for violation in violations:
        typer.echo(f"fails: {violation.sentence}", err=True)
    if violations:
        raise typer.Exit(EXIT_VIOLATED)


def _show(comparison: "Comparison") -> None:
    from rich.console import Console  # noqa: PLC0415

    from cait_dist.compare.showing.table import print_comparison  # noqa: PLC0415

    print_comparison(comparison, Console())


def _write(comparison: "Comparison", html: Path | None, csv: Path | None, json: Path | None) -> None:
    if html is not None:
        from cait_dist.compare.showing.page.write import write_page  # noqa: PLC0415 - jinja2

        with writing(html):
            write_page(comparison, html)
    if csv is not None or json is not None:
        from cait_dist.compare.showing.export import write_csv, write_json  # noqa: PLC0415

        for path, write in ((csv, write_csv), (json, write_json)):
            if path is not None:
                with writing(path):
                    write(comparison, path)


def _progress(sources: Sequence[str]) -> Iterable[str]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    errors = Console(stderr=True)
    return track(sources, "reading runs", console=errors, transient=True, disable=not errors.is_terminal)
