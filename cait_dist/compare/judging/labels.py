"""Short names for groups of runs, from the settings in which they differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

MOST_SETTINGS = 3
"""A label of more would be longer than anybody reads: the runs' own names say it better."""

LONGEST_VALUE = 28


def label_groups(
    settings: Sequence[Mapping[str, str]], run_names: Sequence[Sequence[str]], keys: Iterable[str]
) -> list[str]:
    """A label for each group, no two alike.

    Args:
        settings: of each group, those that differ between groups
        run_names: of each group, names of its runs
        keys: all settings that runs have, to know which last parts of a key are unambiguous

    Returns:
        ``lr=0.001, epochs=36``; what the names of a group's runs have in common where too much differs or nothing
    """
    if len(settings) > 1 and 0 < len(settings[0]) <= MOST_SETTINGS:
        short = _short_keys(settings[0], keys)
        labels = [", ".join(f"{short[key]}={short_value(value)}" for key, value in group.items()) for group in settings]
    else:
        labels = [_stem(names) for names in run_names]
    return _apart(labels, run_names)


def _short_keys(differing: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    ends = Counter(key.rpartition(".")[2] for key in keys)
    # What is no setting, such as val.digest, is not counted and keeps its whole name.
    return {key: key.rpartition(".")[2] if ends[key.rpartition(".")[2]] == 1 else key for key in differing}


def short_value(value: str) -> str:
    """A value that is not too long for a label: digests are cut as git does, others lose their middle."""
    if match := re.fullmatch(r"([0-9a-f]{8})[0-9a-f]{12,}(\+changes)?", value):
        return match[1] + (match[2] or "")
    if len(value) <= LONGEST_VALUE:
        return value or "—"
    return f"{value[: LONGEST_VALUE // 2]}…{value[-(LONGEST_VALUE // 2 - 1) :]}"


def _stem(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    common = re.sub(r"([-_. ]+(seed|s)?[=_-]*)$", "", _common_start(names))
    return common if len(common) > 2 else f"{names[0]} and {len(names) - 1} more"


def _common_start(names: Sequence[str]) -> str:
    # Of the first and the last in the alphabet: what these share, all share.
    first, last = min(names), max(names)
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]


def _apart(labels: list[str], run_names: Sequence[Sequence[str]]) -> list[str]:
    """Labels that would be taken for each other get a run's name, which no other group has."""
    counts = Counter(labels)
    apart = [
        f"{label} ({names[0]})" if counts[label] > 1 and label != names[0] else label
        for label, names in zip(labels, run_names, strict=True)
    ]
    if len(set(apart)) < len(apart):
        return [names[0] for names in run_names]
    return apart
