"""`cait doctor`: is this machine able to train?"""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Overrides


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="a run's YAML file: look at its data and MLflow too", show_default=False)
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Look at this machine, and at what a run needs; status 0 if it can train, 1 if something refuses."""
    import json  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    from cait_dist.config import load_config  # noqa: PLC0415
    from launch.check.doctor import examine, is_fit, render  # noqa: PLC0415

    checks = []
    for check in examine(None if config is None else load_config(config, overrides or []).config):
        checks.append(check)
        if not as_json:
            typer.echo(render(check))
    if as_json:
        typer.echo(json.dumps({"fit": is_fit(checks), "checks": [asdict(check) for check in checks]}, indent=2))
    raise typer.Exit(0 if is_fit(checks) else 1)
