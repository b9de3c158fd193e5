"""What can be wrong with a configuration, and where: ``Place``, ``Problem`` and the one exception that carries them.

Everything in this room that finds a fault makes a ``Problem`` of it and goes on, so that whoever reads the message
mends the file once. ``ConfigError`` is raised at the end, with all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
_CREDENTIALS = re.compile(r"(://[^\s'\":/@]*:)[^\s'\"]*@")
_TOKENS = re.compile(r"(https?://)[^\s'\":/@]+@")
_SECRETS = re.compile(r"\b((?:ssl)?password|passwd|token)=[^\s&'\"]+", re.IGNORECASE)
_MAX_SHOWN = 1500
"""Of a problem: the longest of ours, with all that a setting may be, has a third of it."""


@dataclass(frozen=True)
class Place:
    """Where something was written: a position in a file, a file as a whole, or an argument on the command line."""

    source: str
    line: int | None = None
    column: int | None = None
    argument: int | None = None  # which of the arguments it is; None: it is in a file

    @property
    def typed(self) -> bool:
        """Whether it stands on the command line."""
        return self.argument is not None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One fault, in words that need no knowledge of this program."""

    message: str
    place: Place | None = None
    lacks: str | None = None  # the key that somebody must give, where nothing else is wrong

    def __str__(self) -> str:
        return _on_one_line(f"{self.place}: {self.message}" if self.place else self.message)


class ConfigError(ValueError):
    """Every problem found in a configuration; ``str()`` is the text for the user, one line for each.

    The lines are in reading order: files first, each from top to bottom, then the command line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=_reading_order))
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{count} {'error' if count == 1 else 'errors'} in the configuration:"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


def key_text(path: KeyPath) -> str:
    """A key as it is shown to users: ``evaluation.sets[0].split``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def value_text(value: object, limit: int = 60) -> str:
    """A value as it is shown to users: as YAML would spell it, text in quotes, cut where it grows long."""
    text = _spell(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _spell(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spell(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_spell, value)) + "]"
    return repr(value)


def _on_one_line(text: str) -> str:
    # What was typed is repeated, and messages end in logs.
    text = _TOKENS.sub(r"\1***@", _CREDENTIALS.sub(r"\1***@", _SECRETS.sub(r"\1=***", text)))
    # Keys and values come from files: whatever a terminal would obey instead of show is spelled out.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MAX_SHOWN])
    return shown if len(text) <= _MAX_SHOWN else f"{shown}…"


def _reading_order(problem: Problem) -> tuple[int, str, int, int]:
    place = problem.place or Place("")
    if place.argument is not None:
        return place.argument + 1, "", 0, 0
    return 0, place.source, place.line or 0, place.column or 0
