"""The largest batch that fits a GPU, and the batch at which a contender is fastest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from parts.timing import Contender, Manner, clear, free_memory, measure, reason, time_limit

TIMED_RUNS = 3


def largest_that_fits(fits: Callable[[int], bool], at_most: int) -> int:
    """The largest number up to ``at_most`` that fits, if all smaller ones do; 0 if none does.

    Doubling finds the first that does not, bisection the last that does, to within a fiftieth.
    """
    good, bad = 0, at_most + 1
    while good < at_most:
        guess = min(max(1, 2 * good), at_most)
        if not fits(guess):
            bad = guess
            break
        good = guess
    while bad - good > max(1, good // 50):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def search_batches(make: Callable[[int], Contender], manner: Manner, at_most: int, seconds: float) -> dict[str, Any]:
    """Find the largest batch of a contender, and how fast it is at each that was tried.

    Args:
        make: the contender for a number of samples
        manner: how it is measured
        at_most: samples that are tried
        seconds: after which no further batch is tried, about

    Returns:
        ``largest_batch``, ``best_batch`` with its ``images_per_second`` and ``milliseconds``, all ``tried``, whether
        the time was up (``incomplete``), and ``failed`` where something else than memory was in the way
    """
    began = time.monotonic()
    tried: dict[int, float] = {}
    row: dict[str, Any] = {"failed": None, "incomplete": False}

    def fits(batch: int) -> bool:
        if row["failed"] or time.monotonic() - began > seconds:
            row["incomplete"] = True
            return False
        try:
            tried[batch] = _seconds_at(make, batch, manner)
        except (torch.OutOfMemoryError, MemoryError):
            fitted = False
        except Exception as error:  # whatever a compiler or a driver may raise
            row["failed"] = reason(error)
            fitted = False
        else:
            fitted = True
        free_memory(manner.device)  # here, where the error and all that it holds is gone
        return fitted

    row["largest_batch"] = largest_that_fits(fits, at_most)
    row["tried"] = [{"batch": batch, "images_per_second": batch / taken} for batch, taken in sorted(tried.items())]
    if not tried:
        return row | {"failed": row["failed"] or "not even one sample fits"}
    best = max(tried, key=lambda batch: batch / tried[batch])
    row |= {"best_batch": best, "images_per_second": best / tried[best], "milliseconds": 1e3 * tried[best]}
    return row


def _seconds_at(make: Callable[[int], Contender], batch: int, manner: Manner) -> float:
    contender = None
    try:
        with time_limit(manner.first_seconds):
            contender = make(batch)
            for _ in range(contender.warm_ups):
                measure(contender, manner)
        return statistics.median(measure(contender, manner)[0] for _ in range(TIMED_RUNS))
    finally:
        if contender is not None:
            clear(contender)
