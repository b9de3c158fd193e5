"""Names of metrics in a condition, hidden from Python's grammar, for which ``val/top1`` would be a division.

Each becomes one word of the same length, so that every place in the text stays what it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from ..errors import CompareError

_NUMBER = re.compile(r"[\d.]+([eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_]\w*(?:/[A-Za-z_][\w.]*)*")
_SLASH = "\u01c0"
"""Stands for the slash while Python reads the text: a letter, for Python."""


def fail(text: str, start: int, end: int, message: str) -> NoReturn:
    """Refuse an expression, pointing at the characters that are wrong."""
    carets = "^" * max(1, end - start)
    raise CompareError(f"--fail-if: {message}\n  {text}\n  {' ' * start}{carets}")


def hide_names(text: str, known: Sequence[str]) -> tuple[str, dict[int, str]]:
    """Turn every metric into one word.

    Args:
        text: a condition
        known: names of metrics, the longest first

    Returns:
        the text for Python, of the same length, and the metrics by the place where they stand

    Raises:
        CompareError: for characters that no condition holds
    """
    _refuse_characters(text)
    pieces: list[str] = []
    metrics: dict[int, str] = {}
    place = 0
    while place < len(text):
        if name := _name_at(text, place, known):
            if "/" in name or name in known:
                metrics[place] = name
            pieces.append(_word(name))
        else:
            number = _NUMBER.match(text, place)
            pieces.append(number[0] if number else text[place])
        place += len(pieces[-1])
    return "".join(pieces), metrics


def _refuse_characters(text: str) -> None:
    if not text.strip():
        fail(text, 0, 1, "a condition is missing, such as 'val/top1 < baseline - 0.3'")
    for place, character in enumerate(text):
        if character in "#;\\" or not character.isprintable() or not character.isascii():
            fail(text, place, place + 1, f"{character!r} cannot stand here")


def _name_at(text: str, place: int, known: Sequence[str]) -> str:
    """The longest known metric here, else whatever looks like one or is a word."""
    rest = text[place:]
    for name in known:
        if rest.startswith(name) and not re.match(r"\w|/[A-Za-z_]", rest[len(name) :]):
            return name
    match = _WORD.match(rest)
    return match[0] if match else ""


def _word(name: str) -> str:
    word = re.sub(r"\W", _SLASH, name)
    return _SLASH + word[1:] if word[0].isdigit() else word
