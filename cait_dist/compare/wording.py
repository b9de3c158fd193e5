"""Numbers and names as the table, the page and every sentence spell them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .measures import in_percent

_WORDS = {"None": "null", "True": "true", "False": "false"}


def setting(value: Any) -> str:
    """A setting as text: the same for a value read from YAML and for its copy in MLflow, where all is text."""
    if isinstance(value, str):
        return _WORDS.get(value) or _number(value) or value
    if value is None or isinstance(value, bool):
        return _WORDS[str(value)]
    return _number(str(value)) or str(value)


def _number(text: str) -> str | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.15g}"


def value(metric: str, number: float | None) -> str:
    """A metric's value: percents with two digits, others with four that count."""
    if number is None or not math.isfinite(number):
        return "—" if number is None or math.isnan(number) else str(number)
    return f"{number:.2f}" if in_percent(metric) else f"{number:.4g}"


def difference(metric: str, number: float) -> str:
    """A difference with its sign: ``+1.50 points``."""
    text = f"{number:+.2f} points" if in_percent(metric) else f"{number:+.3g}"
    return text.replace("-", "−", 1) if number < 0 else text


def interval(metric: str, low: float, high: float) -> str:
    """Ends of a confidence interval: ``0.62 to 2.38``."""
    ends = [f"{end:.2f}" if in_percent(metric) else f"{end:.3g}" for end in (low, high)]
    return " to ".join(end.replace("-", "−", 1) if end.startswith("-") else end for end in ends)


def p_value(p: float) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.0995 else f"p = {p:.3f}"


def names(several: Sequence[str], most: int = 4) -> str:
    """``a, b and c``; the rest is counted."""
    if len(several) > most:
        return f"{', '.join(several[: most - 1])} and {len(several) - most + 1} more"
    return " and ".join([", ".join(several[:-1]), several[-1]] if len(several) > 1 else several)


def count(number: int, thing: str) -> str:
    """``1 run``, ``3 runs``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """``95 s``, ``62 min``, ``12.3 h``; a dash where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def amount(number: float | None, digits: int = 3) -> str:
    """A number with so many digits that count, thousands separated; a dash where it is not known."""
    if number is None or not math.isfinite(number):
        return "—"
    if abs(number) >= 10 ** (digits - 1):
        return f"{number:,.0f}"
    return f"{number:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as percents; a dash where it is not known."""
    return "—" if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def shortened(text: str, width: int) -> str:
    """A text that fits, its middle left out: names of runs differ at their ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
