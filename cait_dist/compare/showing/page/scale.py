"""From a number to a place in a plot, in percent of its width or height."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .format import compact, number


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low: value at its beginning.
        high: value at its end.
        log: whether equal ratios are equal distances.
    """

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, in percent."""
        low, high, here = (self._place(x) for x in (self.low, self.high, value))
        return round(100 * (here - low) / (high - low), 2)

    def ticks(self, wanted: int = 5) -> list[Tick]:
        """Round numbers within."""
        values = _round_ratios(self.low, self.high) if self.log else _round_steps(self.low, self.high, wanted)
        return [Tick(self(value), compact(value) if abs(value) >= 1e4 else number(value)) for value in values]

    def _place(self, value: float) -> float:
        return math.log(value) if self.log else value


def scale_around(values: Iterable[float | None], margin: float = 0.08, log: bool = False) -> Scale | None:
    """A scale that shows all finite values with some margin; None if there are none."""
    finite = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    if log:
        room = max((high / low) ** margin, 1.15)
        return Scale(low / room, high * room, log=True)
    room = margin * (high - low) or max(abs(high) * 0.05, 1e-9)
    return Scale(low - room, high + room)


def _round_steps(low: float, high: float, wanted: int) -> list[float]:
    raw = (high - low) / max(wanted, 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * 0.7)
    first = math.ceil(low / step)
    return [round(n * step, 12) for n in range(first, math.floor(high / step) + 1)]


def _round_ratios(low: float, high: float) -> list[float]:
    steps = (1,) if high / low > 2000 else (1, 3) if high / low > 30 else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [k * 10.0**d for d in decades for k in steps if low <= k * 10.0**d <= high]
