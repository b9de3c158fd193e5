"""The colour and the shape that stand for a run, the same everywhere on the page."""

from __future__ import annotations

from dataclasses import dataclass

from ...comparison import Comparison

COLOURS = 8
SHAPES = (
    "M4.5 0A4.5 4.5 0 1 1 -4.5 0A4.5 4.5 0 1 1 4.5 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5L5 4H-5Z",
    "M0 -5.6L5.6 0L0 5.6L-5.6 0Z",
    "M0 5L5 -4H-5Z",
    "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M0 -5.5L5.2 -1.7L3.2 4.5H-3.2L-5.2 -1.7Z",
    "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
)
"""SVG paths around the origin; a shape tells runs apart where a colour cannot."""


@dataclass(frozen=True)
class Look:
    """How a run is drawn.

    Attributes:
        colour: index of a colour of the style sheet.
        shape: index of `SHAPES`.
        group: label of its group; empty if it is in none.
    """

    colour: int
    shape: int
    group: str

    @property
    def path(self) -> str:
        """The shape as an SVG path."""
        return SHAPES[self.shape]


def by_group(comparison: Comparison) -> bool:
    """Whether the colour tells the group, because there are more runs than colours that can be told apart."""
    return len(comparison.runs) > COLOURS and bool(comparison.groups)


def looks_of(comparison: Comparison) -> dict[str, Look]:
    """One for each run: a colour of its own, or with many runs its group's colour and a shape of its own within."""
    groups = {name: (number, group) for number, group in enumerate(comparison.groups) for name in group.runs}
    found = {}
    for number, run in enumerate(comparison.runs):
        place, group = groups.get(run.name, (len(comparison.groups), None))
        label = group.label if group else ""
        if by_group(comparison):
            shape = group.runs.index(run.name) if group else number
            found[run.name] = Look(place % COLOURS, shape % len(SHAPES), label)
        else:
            found[run.name] = Look(number % COLOURS, (number + number // COLOURS) % len(SHAPES), label)
    return found


def in_order(comparison: Comparison) -> list[int]:
    """Indices of the runs, those of a group together and the best group first."""
    names = [name for group in comparison.groups for name in group.runs]
    place = {name: number for number, name in reversed(list(enumerate(names)))}
    return sorted(range(len(comparison.runs)), key=lambda n: (place.get(comparison.runs[n].name, len(names)), n))
