"""What differs between the runs, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...comparison import Comparison, Difference
from .format import DASH
from .looks import in_order


@dataclass(frozen=True)
class Setting:
    """One difference.

    Attributes:
        name: last part of its key.
        key: all of it.
        values: in the order of the page, each with whether it is another than the baseline's.
    """

    name: str
    key: str
    values: list[tuple[str, bool]]


def nested_differences(comparison: Comparison, differences: list[Difference]) -> Mapping[str, list[Setting]]:
    """Differences by section (``optimizer.lr`` is in ``optimizer``), values in the order of `in_order`."""
    order = in_order(comparison)
    base = _baseline_run(comparison, order)
    found: dict[str, list[Setting]] = {}
    for difference in differences:
        section, _, name = difference.key.rpartition(".")
        section = section or ("run" if difference.kind == "config" else difference.kind)
        values = [(difference.values[n] or DASH, difference.values[n] != difference.values[base]) for n in order]
        found.setdefault(section, []).append(Setting(name, difference.key, values))
    return found


def _baseline_run(comparison: Comparison, order: list[int]) -> int:
    names = {name for group in comparison.groups if group.label == comparison.baseline for name in group.runs}
    return next((n for n in order if comparison.runs[n].name in names), order[0] if order else 0)


def kinds_of(differences: tuple[Difference, ...]) -> list[tuple[str, list[Difference], bool]]:
    """What is shown open (what decides), then what is folded, each with a title."""
    titles = {"config": "Settings", "data": "Data", "code": "Code", "environment": "Environment"}
    deciding = [d for d in differences if d.decides]
    found = [("What may change the result", deciding, True)] if deciding else []
    for kind, title in titles.items():
        rest = [d for d in differences if d.kind == kind and not d.decides]
        if rest:
            found.append((f"{title} that should not matter" if kind == "config" else title, rest, False))
    return found
