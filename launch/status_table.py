"""The table that `cait status` prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from .status import RunStatus, shown_eta

COLORS = {"running": "green", "finished": "cyan", "failed": "red", "lost": "red", "refused": "red", "queued": "yellow"}


def print_statuses(statuses: Sequence[RunStatus]) -> None:
    """Print one line for each run; what does not fit the terminal's width is wrapped in the last column."""
    table = Table(box=None, pad_edge=False)
    for title in ("run", "state", "job"):
        table.add_column(title, no_wrap=True)
    for title in ("step", "images/s", "ETA", "checkpoint", "restarts"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for status in statuses:
        table.add_row(*_cells(status))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def as_lines(statuses: Sequence[RunStatus]) -> str:
    """The same as JSON, one object per line."""
    return "\n".join(json.dumps(asdict(status)) for status in statuses)


def _cells(status: RunStatus) -> list[str]:
    color = COLORS.get(status.state)
    return [
        status.run,
        f"[{color}]{status.state}[/]" if color else status.state,
        status.job,
        f"{status.step}/{status.total_steps}" if status.total_steps else "",
        f"{status.images_per_second:.0f}" if status.images_per_second else "",
        shown_eta(status.eta_seconds),
        "" if status.checkpoint is None else str(status.checkpoint),
        str(status.restarts),
        status.remark.replace("[", r"\["),
    ]
