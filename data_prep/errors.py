"""The error that a user of data preparation sees."""

from collections.abc import Sequence


class DataPrepError(ValueError):
    """Something about the images, the folders or the request is wrong; the message says what, where and what to do."""


def some_text(value: object, most: int = 60) -> str:
    """A value from somebody else's file for an error message: cut, and with nothing in it that a terminal obeys."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists that nest
        return "something that cannot be shown"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def some(names: Sequence[object], most: int = 5) -> str:
    """A few names for an error message."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
