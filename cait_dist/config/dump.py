"""A configuration written out: as YAML that loads back to an equal one, as flat parameters, as a list of differences.

Every leaf takes one line of YAML, lists included, so that a line can be followed by a note on where its value comes
from, and so that two files can be compared line by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .load import LoadedConfig
from .run import RunConfig
from .scalars import spell

FlatValue = str | int | float | bool | None

_WIDEST = 60  # a longer line pushes its own comment aside, not everybody's


def config_to_yaml(config: RunConfig) -> str:
    """All settings, defaults included, in the order of the schema; loading the text gives an equal configuration."""
    return "".join(f"{line}\n" for _, line in _lines(config.model_dump(mode="json")))


def describe(loaded: LoadedConfig) -> str:
    """``config_to_yaml`` with the origin of each value in a comment behind it."""
    lines = list(_lines(loaded.config.model_dump(mode="json")))
    column = max(len(line) for _, line in lines if len(line) <= _WIDEST)
    return "".join(
        f"{line.ljust(column)}  # {loaded.origins[key]}\n" if key in loaded.origins else f"{line}\n"
        for key, line in lines
    )


def flatten(config: RunConfig) -> dict[str, FlatValue]:
    """Every value under its dotted key, as MLflow wants parameters; a list is its JSON text."""
    return dict(_leaves(config.model_dump(mode="json")))


def diff(a: RunConfig, b: RunConfig) -> list[tuple[str, FlatValue, FlatValue]]:
    """The keys whose values differ, with the value of ``a`` and that of ``b`` (as in ``flatten``)."""
    old, new = flatten(a), flatten(b)
    return [(key, old[key], new[key]) for key in old if old[key] != new[key]]


def _lines(values: dict[str, Any], prefix: str = "", indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{prefix}{name}", f"{indent}{name}:"
            yield from _lines(value, f"{prefix}{name}.", f"{indent}  ")
        else:
            yield f"{prefix}{name}", f"{indent}{name}: {spell(value)}"


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, FlatValue]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list) else value
