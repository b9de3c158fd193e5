"""How contenders are compared: in turns, round by round, so that a slow minute harms all alike.

A ratio is the median over rounds of ratios within a round. A GPU is timed by the clock on the wall, a CPU by the
processor time of one thread (unless more are asked for), which does not count what neighbours do. bf16 is autocast over
float32 parameters. The first round warms up and compiles, and is not counted; it may be bounded in time.

What fails (too little memory, an error of a compiler, a network that cannot be had) is a result like any other: the
contender is told with its reason, takes no further part, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Contender:
    """Something that computes a scalar to differentiate."""

    run: Callable[[], Tensor]
    leaves: list[Tensor]
    """where gradients arrive"""
    update: Callable[[], object] | None = None
    """the optimizer's step, where it is part of what is measured"""
    facts: dict[str, float] = field(default_factory=dict)
    """what a run tells of itself, kept of every round: the share of branches that it computed, for example"""
    warm_ups: int = 1
    """runs before the first that counts"""


Makers = Mapping[str, Callable[[], Contender]]
"""By name, made when first needed, as that may fail, too; the first is what the others are compared with."""


@dataclass(frozen=True)
class Manner:
    """How it is measured."""

    device: torch.device
    precision: Precision
    rounds: int
    threads: int = 1
    """of a CPU"""
    first_seconds: float | None = None
    """bound on the first run, where compilers are at work; None: none"""


@dataclass
class Turns:
    """What became of a contender."""

    seconds: list[float] = field(default_factory=list)
    """of each round"""
    first_seconds: float | None = None
    """of the run that warmed up"""
    peak_bytes: int = 0
    """most memory allocated, on a GPU; 0 elsewhere"""
    growth_bytes: int = 0
    """how much of it the run added to what was there before"""
    facts: dict[str, list[float]] = field(default_factory=dict)
    failed: str | None = None
    """in a line, why it takes no part"""


def take_turns(makers: Makers, manner: Manner) -> dict[str, Turns]:
    """Measure all of them; see the head of the module."""
    turns = {name: Turns() for name in makers}
    contenders: dict[str, Contender] = {}
    for number in range(manner.rounds + 1):
        for name, turn in turns.items():
            if turn.failed is None:
                turn.failed = _attempt(makers[name], contenders, name, number == 0, manner, turn)
    return turns


def _attempt(
    make: Callable[[], Contender], made: dict[str, Contender], name: str, first: bool, manner: Manner, turn: Turns
) -> str | None:
    """One turn; what went wrong, if anything did."""
    try:
        began = time.perf_counter()
        with time_limit(manner.first_seconds if first else None):
            made[name] = made.get(name) or make()
            for _ in range(made[name].warm_ups - 1 if first else 0):
                measure(made[name], manner)
            seconds, peak, growth = measure(made[name], manner)
    except Exception as error:  # whatever a compiler or a driver may raise
        failed = reason(error)
        turn.seconds = []
    else:
        if first:
            turn.first_seconds = time.perf_counter() - began
        else:
            turn.seconds.append(seconds)
            for key, value in made[name].facts.items():
                turn.facts.setdefault(key, []).append(value)
        turn.peak_bytes, turn.growth_bytes = max(turn.peak_bytes, peak), max(turn.growth_bytes, growth)
        return None
    if name in made:
        clear(made.pop(name))
    free_memory(manner.device)  # here, where the error and all that it holds is gone
    return failed


def measure(contender: Contender, manner: Manner) -> tuple[float, int, int]:
    """Seconds of one run with its backward pass, and on a GPU the peak of memory and what the run added to it."""
    clear(contender)
    on_gpu = manner.device.type == "cuda"
    clock = time.process_time if not on_gpu and manner.threads == 1 else time.perf_counter
    before = 0
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = clock()
    work(contender, manner)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    clear(contender)
    return seconds, peak, peak - before


def work(contender: Contender, manner: Manner) -> None:
    """Forward, backward, and the update if there is one."""
    cast = torch.autocast(manner.device.type, torch.bfloat16)
    with cast if manner.precision == "bf16" else contextlib.nullcontext():
        result = contender.run()
    result.backward()
    if contender.update is not None:
        contender.update()


def clear(contender: Contender) -> None:
    """Forget the gradients."""
    for leaf in contender.leaves:
        leaf.grad = None


def rows(
    what: str, turns: Mapping[str, Turns], manner: Manner, more: Callable[[float], dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """A row of results per contender, compared with the first.

    Args:
        what: was measured
        turns: of the contenders
        manner: how
        more: further values that follow from the median of the seconds
    """
    baseline = next(iter(turns))
    found = []
    for name, turn in turns.items():
        row: dict[str, Any] = {"what": what, "precision": manner.precision, "contender": name, "failed": turn.failed}
        row |= {"first_seconds": turn.first_seconds, "peak_bytes": turn.peak_bytes or None}
        row["growth_bytes"] = turn.growth_bytes or None
        if turn.seconds:
            median = statistics.median(turn.seconds)
            row |= {"milliseconds": 1e3 * median, "rounds_milliseconds": [1e3 * s for s in turn.seconds]}
            row |= {key: statistics.fmean(values) for key, values in turn.facts.items()}
            row |= more(median) if more else {}
        ratios = [b / t for b, t in zip(turns[baseline].seconds, turn.seconds, strict=False)]
        row[f"times_faster_than_{baseline}"] = statistics.median(ratios) if ratios else None
        found.append(row)
    return found


def tell(found: list[dict[str, Any]]) -> None:
    """Print rows of one comparison, each with the values that it has."""
    for row in found:
        ratio = next((row[key] for key in row if key.startswith("times_faster_than_")), None)
        values = {
            "{:9.1f} ms": row.get("milliseconds"),
            "{:5.2f} x": ratio,
            "batch {}": row.get("best_batch"),
            "of at most {}": row.get("largest_batch"),
            "{:.1f} images/s": row.get("images_per_second"),
            "MFU {:.1%}": row.get("mfu"),
            "{:.2f} GiB": row["peak_bytes"] / 2**30 if row.get("peak_bytes") else None,
            "+{:.0f} MiB": row["growth_bytes"] / 2**20 if row.get("growth_bytes") else None,
            "{:.2f} of timm's": row.get("share_of_timm"),
        }
        told = [text.format(value) for text, value in values.items() if value is not None]
        what = f"failed: {row['failed']}" if row["failed"] else "  ".join(told)
        print(f"{row['what']:36} {row['precision']}  {row['contender']:20} {what}", flush=True)


def reason(error: BaseException) -> str:
    """An error in a line that is not too long, with what a compiler complained of first."""
    first, *more = str(error).strip().splitlines() or [""]
    complaint = next((line.strip() for line in more if "error: " in line), None)
    return f"{type(error).__name__}: {first}{f'; {complaint}' if complaint else ''}"[:400]


def free_memory(device: torch.device) -> None:
    """Give back what nobody uses, and what the allocator only keeps for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise ``TimeoutError`` in here after so many seconds; in the main thread only, and as soon as Python runs."""
    if seconds is None:
        yield
        return

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
