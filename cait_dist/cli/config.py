"""`cait config …`: look at a configuration before anything is started."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import ConfigFile, Overrides

config_app = typer.Typer(help="Look at a configuration before anything is started.", no_args_is_help=True)


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
    configs: Annotated[list[Path], typer.Argument(metavar="FILE|DIR…", help="YAML files, or folders of them")],
) -> None:
    """Check files and report all errors at once. Data and hardware are not touched.

    A recipe, which says how to train and not what, is checked with the files that build on it.
    """
    from cait_dist.config import validate  # noqa: PLC0415

    whole, parts = validate(configs)
    also = f", and so is what they build on: {', '.join(map(str, parts))}" if parts else ""
    typer.echo(f"{len(whole)} valid{also}")


@config_app.command("diff")
def config_diff(
    first: ConfigFile,
    second: ConfigFile,
) -> None:
    """Print the settings in which two configurations differ, defaults resolved."""
    from cait_dist.config import diff, load_config  # noqa: PLC0415

    for key, before, after in diff(load_config(first).config, load_config(second).config):
        typer.echo(f"{key}: {before} → {after}")
