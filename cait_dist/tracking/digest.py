"""A short form of a metrics file: what a picture and a comparison need, without reading every line again.

A long run leaves gigabytes of JSON lines. So whoever writes them also keeps, per metric, at most a few hundred
*stretches*: neighbouring values summed up by their count, mean, lowest and highest. When there are too many, each two
neighbours become one. The lowest and the highest are real points (step, time, value), so a curve drawn through them has
every spike of the whole, and can be cut at any step. Metrics of evaluations are few and are kept one by one.

The file ``attempt-K/digest.npz`` says how many bytes of ``metrics.jsonl`` it covers; the rest is read from there. It
can be lost, or be out of date, at no other cost than reading the lines again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .run_directory import parse_row

DIGEST_FILE = "digest.npz"
MOST_STRETCHES = 512
"""Of one metric, an even number; a curve has at most twice as many points."""
THINNED = ("train/", "perf/", "health/")
"""Beginnings of the metrics that every logged step has."""
_VERSION = 1

Points = NDArray[np.float64]

FIELDS = (
    "first_step", "last_step", "count", "not_finite", "sum",
    "low_step", "low_time", "low", "high_step", "high_time", "high",
)  # fmt: skip
"""Of a stretch, in the order in which they are kept; ``sum`` is of the finite values."""
FIRST, LAST, COUNT, NOT_FINITE, SUM, LOW_STEP, LOW_TIME, LOW, HIGH_STEP, HIGH_TIME, HIGH = range(len(FIELDS))


class Stretches:
    """One metric's stretches, in the order of steps.

    Args:
        most: stretches to keep; None for one per value
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._full: list[list[float]] = []
        self._per_stretch = 1
        """values that a finished stretch holds"""

    def add(self, step: int, time: float, value: float) -> None:
        """Add the next value."""
        finite = value - value == 0
        if self._full and self._full[-1][COUNT] < self._per_stretch:
            _extend(self._full[-1], step, time, value, finite)
            return
        if self._most is not None and len(self._full) >= self._most:
            self._halve()
            self.add(step, time, value)
            return
        shown = value if finite else math.nan
        self._full.append([step, step, 1, not finite, value if finite else 0.0, *(step, time, shown) * 2])

    def cut(self, step: int) -> None:
        """Take back what lies beyond a step; a stretch that reaches over it goes whole."""
        self._full = [stretch for stretch in self._full if stretch[LAST] <= step]

    def table(self) -> Points:
        """All stretches, (n, len(FIELDS))."""
        return np.array(self._full, dtype=np.float64).reshape(-1, len(FIELDS))

    @classmethod
    def restored(cls, table: Points, most: int | None) -> Stretches:
        """Go on from where a table was taken."""
        found = cls(most)
        found._full = table.tolist()
        found._per_stretch = int(table[:, COUNT].max()) if len(table) else 1
        return found

    def _halve(self) -> None:
        # Their number is even whenever there are too many.
        self._full = [_merged(a, b) for a, b in zip(self._full[0::2], self._full[1::2], strict=True)]
        self._per_stretch *= 2


def _extend(stretch: list[float], step: int, time: float, value: float, finite: bool) -> None:
    stretch[LAST] = step
    stretch[COUNT] += 1
    if not finite:
        stretch[NOT_FINITE] += 1
        return
    stretch[SUM] += value
    # NaN compares as false with everything, so the first finite value replaces it.
    if not value >= stretch[LOW]:
        stretch[LOW_STEP : LOW + 1] = [step, time, value]
    if not value <= stretch[HIGH]:
        stretch[HIGH_STEP : HIGH + 1] = [step, time, value]


def _merged(a: list[float], b: list[float]) -> list[float]:
    low = a if a[LOW] <= b[LOW] or b[LOW] != b[LOW] else b
    high = a if a[HIGH] >= b[HIGH] or b[HIGH] != b[HIGH] else b
    sums = [a[COUNT] + b[COUNT], a[NOT_FINITE] + b[NOT_FINITE], a[SUM] + b[SUM]]
    return [a[FIRST], b[LAST], *sums, *low[LOW_STEP : LOW + 1], *high[HIGH_STEP : HIGH + 1]]


@dataclass
class Digest:
    """All metrics of one attempt.

    Attributes:
        resumed_from: the step the attempt went on from; the earliest, where it has gone back by itself.
        last_step: of the last line.
        last_time: of the last line, seconds since the epoch.
        covered: bytes of metrics.jsonl that are in it.
        metrics: stretches by metric.
        last: the last point of each metric: step, time, value.
    """

    resumed_from: int = 0
    last_step: int = 0
    last_time: float = 0.0
    covered: int = 0
    metrics: dict[str, Stretches] = field(default_factory=dict)
    last: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], size: int) -> None:
        """Add one line of metrics.jsonl.

        Args:
            row: its content; values that are no numbers are spelled as text (``"nan"``, ``"inf"``)
            size: its length in bytes, the line's end included
        """
        is_first = not self.covered
        self.covered += size
        if "step" not in row:
            begin = row.get("resumed_from") or 0
            self.resumed_from = begin if is_first else min(begin, self.resumed_from)
            self._cut(begin)
            return
        step, time = row["step"], row["time"]
        self.last_step, self.last_time = step, time
        for key, given in row.items():
            if key in ("step", "time"):
                continue
            value = float(given)
            stretches = self.metrics.get(key)
            if stretches is None:
                stretches = self.metrics[key] = Stretches(_most(key))
            stretches.add(step, time, value)
            self.last[key] = (step, time, value)

    def _cut(self, begin: int) -> None:
        self.last_step = min(self.last_step, begin)
        for key in [key for key, point in self.last.items() if point[0] > begin]:
            self.metrics[key].cut(begin)
            table = self.metrics[key].table()
            if len(table):
                step, time, value = table[-1, HIGH_STEP : HIGH + 1].tolist()
                self.last[key] = (step, time, value)
            else:
                del self.metrics[key], self.last[key]

    def save(self, attempt_dir: Path) -> None:
        """Replace the attempt's file."""
        tables = {key: stretches.table() for key, stretches in self.metrics.items()}
        head = {
            "version": _VERSION,
            "resumed_from": self.resumed_from,
            "last_step": self.last_step,
            "last_time": self.last_time,
            "covered": self.covered,
            "keys": list(tables),
        }
        aside = attempt_dir / f"{DIGEST_FILE}.{os.getpid()}.new"
        try:
            with aside.open("wb") as file:
                np.savez(
                    file,
                    head=np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
                    sizes=np.array([len(table) for table in tables.values()], dtype=np.int64),
                    stretches=np.concatenate([*tables.values(), np.empty((0, len(FIELDS)))]),
                    last=np.array([self.last[key] for key in tables], dtype=np.float64).reshape(-1, 3),
                )
            aside.replace(attempt_dir / DIGEST_FILE)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def read_digest(attempt_dir: Path) -> Digest:
    """The digest of all complete lines of an attempt: what is saved, and the lines written since."""
    lines = attempt_dir / "metrics.jsonl"
    try:
        size = lines.stat().st_size
    except FileNotFoundError:
        return Digest()
    digest = _saved(attempt_dir)
    if digest is None or digest.covered > size:
        digest = Digest()
    for line in complete_lines(lines, digest.covered):
        digest.add(parse_row(lines, line), len(line))
    return digest


def complete_lines(path: Path, start: int) -> Iterable[bytes]:
    """Lines from an offset on, with their ends; a torn one at the end of the file is left out."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _saved(attempt_dir: Path) -> Digest | None:
    # Cut off, or written by another version: the lines are there.
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        with np.load(attempt_dir / DIGEST_FILE) as file:
            head = json.loads(file["head"].tobytes())
            sizes, stretches, last = file["sizes"], file["stretches"], file["last"]
        if head["version"] != _VERSION:
            return None
        keys = head["keys"]
        tables = np.split(stretches, np.cumsum(sizes)[:-1]) if keys else []
        return Digest(
            head["resumed_from"],
            head["last_step"],
            head["last_time"],
            head["covered"],
            {key: Stretches.restored(table, _most(key)) for key, table in zip(keys, tables, strict=True)},
            {key: tuple(point) for key, point in zip(keys, last.tolist(), strict=True)},
        )
    return None


def _most(key: str) -> int | None:
    return MOST_STRETCHES if key.startswith(THINNED) else None
