"""What a user can mend about a comparison."""

from collections.abc import Iterable, Sequence

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
    listed = f" ({listing(kind, names, shown)})" if names else ""
    return CompareError(f"unknown {kind} {name!r}{meant(name, names)}{listed}")


def meant(name: str, known: Sequence[str]) -> str:
    """``did you mean …``, with two names where two are as near."""
    return did_you_mean([repr(found) for found in nearest_values(name, known, count=2, cutoff=0.75)])


def listing(kind: str, names: Sequence[str], shown: int = 12) -> str:
    """``metrics: a, b and 3 more``."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{kind}s: {', '.join(names[:shown])}{more}"
