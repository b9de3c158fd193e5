"""Wall-clock times in SLURM's spelling: ``30`` (minutes), ``12:00:00``, ``2-00:00:00``, ``infinite``.

SLURM reads ``12:00`` as twelve minutes, most people as twelve hours; so the form with one colon is refused.
"""

import re

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")


def seconds_of(text: str) -> float:
    """Seconds of a wall-clock time; ``infinity`` for a limit that is none.

    Raises:
        ValueError: with the spellings that are understood
    """
    text = text.strip()
    if text.lower() in ("infinite", "unlimited"):
        return float("inf")
    if text.isdigit() and int(text) > 0:
        return 60.0 * int(text)
    found = _CLOCK.fullmatch(text)
    if found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total > 0 and minutes < 60 and seconds < 60:
            return float(total)
    raise ValueError(f"must be minutes (90), H:MM:SS (12:00:00) or D-HH:MM:SS (2-00:00:00), got {text!r}")


def minutes_of(text: str) -> int:
    """The same in minutes, which is what SLURM counts in: rounded up."""
    return max(1, -(-int(seconds_of(text)) // 60))
