"""`cait evaluate`: measure checkpoints, here or as a job of a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Overrides


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run, or one of its checkpoints", show_default=False)],
    overrides: Overrides = None,
    step: Annotated[str | None, typer.Option(metavar="N|newest|all", help="which checkpoint; default: newest")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="raw, ema, or both in turn; default: the run's")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="NAME", help="default: all of the run")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="every new checkpoint, until the run ends")] = False,
) -> None:
    """Measure checkpoints of a run on its evaluation sets. What is known already is not measured again."""
    from cait_dist.training.evaluate_run import Evaluation  # noqa: PLC0415
    from cait_dist.training.evaluation_request import Request  # noqa: PLC0415

    request = Request(run, step, tuple(weights or ()), tuple(sets or ()), follow, tuple(overrides or ()))
    Evaluation(request, typer.echo).work()
