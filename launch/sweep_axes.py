"""``optimizer.lr=1e-3,5e-4 seed=0..2``: from arguments to the members of a sweep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OUTSIDE_BRACKETS = re.compile(r",(?![^\[{]*[\]}])")
MOST_MEMBERS = 10_000


class SweepError(ValueError):
    """The arguments make no sweep; the message says which and why."""


@dataclass(frozen=True)
class Member:
    """One point of the product: its name, and the settings that make it."""

    name: str
    settings: tuple[str, ...]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Tell settings of every member from axes.

    An axis has values with commas between them (``1e-3,5e-4``; commas in brackets belong to a value), or a range of
    whole numbers, both ends included (``0..2``).

    Returns:
        fixed settings, and the values of each axis in the order given

    Raises:
        SweepError: if an axis is empty, given twice, or repeats a value
    """
    fixed, axes = list[str](), dict[str, list[str]]()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        values = _values(argument, text)
        if not equals or len(values) == 1:
            fixed.append(argument)
        elif key in axes:
            raise SweepError(f"'{key}' is given twice: put all its values into one argument")
        elif len(set(values)) < len(values) or "" in values:
            raise SweepError(f"'{argument}': every value must be there, and only once")
        else:
            axes[key] = values
    return fixed, axes


def _values(argument: str, text: str) -> list[str]:
    found = _RANGE.fullmatch(text)
    if found is None:
        return _OUTSIDE_BRACKETS.split(text)
    first, last = int(found.group(1)), int(found.group(2))
    if first > last or last - first >= MOST_MEMBERS:
        raise SweepError(
            f"'{argument}': a range goes from the smaller number to the larger, over {MOST_MEMBERS} at most"
        )
    return [str(number) for number in range(first, last + 1)]


def read_array(text: str) -> tuple[str, int | None]:
    """SLURM's way to ask for an array, with seeds for indices: ``0-4%2`` or ``1,5,7``.

    Returns:
        the axis of the seeds, and how many at a time; None for all

    Raises:
        SweepError: if it is written otherwise
    """
    found = re.fullmatch(r"(\d+-\d+|\d+(?:,\d+)+)(?:%([1-9]\d*))?", text)
    if found is None:
        raise SweepError(f"--array {text}: write a range of seeds (0-4), or several (1,5,7), and %2 for two at a time")
    return f"seed={found.group(1).replace('-', '..')}", int(found.group(2)) if found.group(2) else None


def members(axes: dict[str, list[str]]) -> list[Member]:
    """The product of all axes; the last one changes fastest.

    Raises:
        SweepError: if there is no axis, there are too many members, or two would have the same name
    """
    if not axes:
        raise SweepError("a sweep needs a setting with several values, e.g. optimizer.lr=1e-3,5e-4 or seed=0..2")
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if len(points) > MOST_MEMBERS:
        raise SweepError(f"{len(points)} members are more than {MOST_MEMBERS}")
    short = _short_names(list(axes))
    found = [Member(_name(point, short), tuple(f"{k}={v}" for k, v in point.items())) for point in points]
    names = [member.name for member in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SweepError(f"two members would be called {twice[0]}: spell their values differently")
    return found


def _short_names(keys: list[str]) -> dict[str, str]:
    """The last word of each key, unless two keys share it."""
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: word if list(last.values()).count(word) == 1 else key for key, word in last.items()}


def _name(point: dict[str, str], short: dict[str, str]) -> str:
    text = "-".join(f"{short[key]}_{value}" for key, value in point.items())
    return re.sub(r"[^A-Za-z0-9._-]+", ".", text).strip(".-")
