"""Check many files at once: runs, and the parts that runs are built from.

A recipe says how to train and not what, so it is no configuration by itself. It is a *part* if nothing is wrong with it
but what is left for others to say, and one of the other files builds on it. A file that nobody builds on must be whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import ConfigError, Problem
from .load import load_config


def validate(places: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Check files, and all ``*.yaml`` in folders and the folders below.

    Args:
        places: files and folders; a file that comes twice is checked once

    Returns:
        whole configurations, and parts that those build on

    Raises:
        ConfigError: with every problem of every file
    """
    problems: list[Problem] = []
    whole, partial, used = [], dict[Path, ConfigError](), set[Path]()
    for path in dict.fromkeys(file for place in places for file in _files_at(place)):
        try:
            used |= load_config(path).files - {path.resolve()}
            whole.append(path)
        except ConfigError as error:
            if all(problem.lacks for problem in error.problems):
                partial[path] = error
            else:
                problems += error.problems
    parts = [path for path in partial if path.resolve() in used]
    problems += [problem for path, error in partial.items() if path not in parts for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return whole, parts


def _files_at(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    found = sorted(place.rglob("*.yaml"))
    if not found:
        raise ConfigError([Problem(f"there is no *.yaml in the folder '{place}'")])
    yield from found
