"""Tables that fit the terminal: what is least important goes first, and is named; no cell ever wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ..wording import shortened

GAP = 2
NARROWEST = 14
"""Characters that the first column keeps at least."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        cells: one for each row.
        right: whether it is aligned to the right, as numbers are.
    """

    heading: str
    cells: Sequence[str]
    right: bool = True

    @property
    def width(self) -> int:
        """Of its widest cell."""
        return max(map(len, [self.heading, *self.cells]))

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return all(cell in ("", "—") for cell in self.cells)


def fitted(columns: Sequence[Column], width: int) -> tuple[Table, list[str]]:
    """A table of the given width.

    Args:
        columns: the first names the rows, and is shortened where need be; the others by importance
        width: of the terminal

    Returns:
        the table, and the headings of the columns that found no room
    """
    first, others = columns[0], [column for column in columns[1:] if not column.empty]
    dropped: list[str] = []
    while others and sum(c.width + GAP for c in others) + min(first.width, NARROWEST) > width:
        dropped.insert(0, others.pop().heading)
    room = max(width - sum(column.width + GAP for column in others), 1)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(Text(shortened(first.heading, room)), no_wrap=True)
    for column in others:
        table.add_column(Text(column.heading), justify="right" if column.right else "left", no_wrap=True)
    for row in zip(first.cells, *(column.cells for column in others), strict=True):
        table.add_row(Text(shortened(row[0], room)), *map(Text, row[1:]))
    return table, dropped
