"""What a user can mend about a comparison."""

from collections.abc import Iterable

from cait_dist.config.suggest import did_you_mean, nearest_values


class CompareError(ValueError):
    """Runs cannot be compared as asked; the message names what, and what would do."""


def unknown(kind: str, name: str, known: Iterable[str], shown: int = 12) -> CompareError:
    """An error for a name that is not among those known.

    Args:
        kind: what it was meant to be, e.g. ``metric``
        name: as it was written
        known: that would do
        shown: how many of them are listed at most

    Returns:
        the error, with the nearest name
    """
    names = list(known)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    near = did_you_mean([f"{found!r}" for found in nearest_values(name, names)])
    listed = f" ({kind}s: {', '.join(names[:shown])}{more})" if names else ""
    return CompareError(f"unknown {kind} {name!r}{near}{listed}")
