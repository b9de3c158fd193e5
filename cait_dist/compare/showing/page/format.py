"""How numbers are written on the page. What is not known is a dash."""

from __future__ import annotations

import math

DASH = "–"
MINUS = "−"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float | None, digits: int = 5) -> str:
    """A value with so many significant digits."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        return _signs(f"{value:.{min(digits, 4)}g}")
    if size >= 10 ** (digits - 1):
        return _signs(f"{value:,.0f}")
    return _signs(f"{value:,.{digits}g}")


def score(metric: str, value: float | None) -> str:
    """A value of a metric as it stands in a table: accuracies with two places, the rest with four digits."""
    if value is not None and math.isfinite(value) and is_percent(metric):
        return _signs(f"{value:.2f}")
    return number(value, 4)


def is_percent(metric: str) -> bool:
    """Whether a metric is an accuracy in percent."""
    return metric.rpartition("/")[2] in ("top1", "top5")


def signed(metric: str, value: float | None) -> str:
    """A difference, with its sign."""
    text = score(metric, value)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 else text


def count(value: float | None) -> str:
    """A whole number."""
    return DASH if value is None else number(value) if not math.isfinite(value) else _signs(f"{value:,.0f}")


def compact(value: float | None) -> str:
    """A large number in three digits: ``46.9 M``."""
    if value is None or not math.isfinite(value):
        return number(value)
    for size, unit in UNITS:
        if abs(value) >= size:
            return _signs(f"{value / size:.3g} {unit}")
    return _signs(f"{value:.3g}")


def percent(share: float | None) -> str:
    """A share as percent."""
    return DASH if share is None else number(share) if not math.isfinite(share) else _signs(f"{100 * share:.3g} %")


def duration(seconds: float | None) -> str:
    """Days and hours, hours and minutes, or less."""
    if seconds is None or not math.isfinite(seconds):
        return number(seconds)
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60:02d} min"


def _signs(text: str) -> str:
    return text.replace("-", MINUS) if text[:1] == "-" else text
