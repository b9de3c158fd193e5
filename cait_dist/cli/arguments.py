"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(help="YAML file, e.g. configs/digits.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings that win over the file, e.g. optimizer.lr=1e-3", show_default=False)
]
RunDir = Annotated[Path, typer.Argument(help="run directory, e.g. runs/digits", show_default=False)]
