"""The error that a user of data preparation sees."""

from collections.abc import Sequence


class DataPrepError(ValueError):
    """Something about the images, the folders or the request is wrong; the message says what, where and what to do."""


def some(names: Sequence[object], most: int = 5) -> str:
    """A few names for an error message."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
