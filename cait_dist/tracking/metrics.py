"""The metrics file: append-only JSON lines, one file per attempt, the truth that MLflow mirrors.

The first line says where the attempt began: ``{"resumed_from": 1200}``. Every other line holds a step, a time and
values: ``{"step": 1210, "time": 1763812345.6, "train/loss": 2.31}``. An attempt that was killed has lines beyond its
last checkpoint; the next attempt does those steps again. So on reading, an attempt's lines count only up to the step
its successor resumed from, and each step has one value. An attempt that goes back by itself says so by another line
like the first, which takes back what came before it in the same way.

Lines that a full disk does not take are kept and written later, see `kept_lines`.
"""

import contextlib
import math
import os
import time as clock
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .kept_lines import KeptLines
from .run_directory import RunDirectory, parse_row

Row = dict[str, Any]


DIGEST_SECONDS = 300.0
"""The digest of a run that is killed is at most this old."""


class MetricsWriter:
    """Appends to one attempt's metrics.jsonl; every line reaches the operating system at once, or as soon as it can.

    Beside it a short form is kept, see `digest`.

    Args:
        attempt_dir: of the attempt
        resumed_from: the step it goes on from
        say: tells the user that lines cannot be written
    """

    def __init__(self, attempt_dir: Path, resumed_from: int, say: Callable[[str], None] = print) -> None:
        from .digest import Digest  # noqa: PLC0415 - numpy, which readers of these lines do without

        self._dir, self._digest, self._saved = attempt_dir, Digest(), clock.monotonic()
        self._lines = KeptLines(attempt_dir / "metrics.jsonl", say, self._digest.add, _is_of_training)
        self._lines.append({"resumed_from": resumed_from})

    def append(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Add one line.

        Args:
            step: optimizer steps done
            time: seconds since the epoch
            values: finite or not; infinities and NaN are written as strings, so that every line is plain JSON
        """
        plain = {key: _plain(value) for key, value in values.items()}
        self._lines.append({"step": step, "time": round(time, 3), **plain})
        if clock.monotonic() - self._saved > DIGEST_SECONDS:
            self._save_digest()

    def go_back(self, step: int) -> None:
        """Take back all lines beyond a step: they are done again, on other data."""
        self._lines.append({"resumed_from": step})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
        self._save_digest()

    def _save_digest(self) -> None:
        self._saved = clock.monotonic()
        # A full disk: it says the same as the lines, which are what counts.
        with contextlib.suppress(OSError):
            self._digest.save(self._dir)


def read_metrics(run: RunDirectory) -> list[Row]:
    """All lines that count, in order of steps; a torn last line is left out."""
    rows: list[Row] = []
    for attempt in run.attempts():
        rows = _continued(rows, _complete_lines(attempt / "metrics.jsonl"))
    return rows


def attempt_metrics(attempt_dir: Path) -> list[Row]:
    """The lines of one attempt alone, also those beyond the step that its successor went on from."""
    return _continued([], _complete_lines(attempt_dir / "metrics.jsonl"))


def recent_metrics(attempt_dir: Path, max_bytes: int = 1 << 16) -> list[Row]:
    """The last lines of one attempt: what is asked of many runs must not read all that they have written."""
    try:
        with (attempt_dir / "metrics.jsonl").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read()
    except FileNotFoundError:
        return []
    if size > max_bytes:
        text = text.partition(b"\n")[2]
    lines = text.rpartition(b"\n")[0].split(b"\n")
    return _continued([], [parse_row(attempt_dir / "metrics.jsonl", line) for line in lines if line])


def series(rows: list[Row], key: str) -> list[tuple[int, float]]:
    """Steps and values of one metric."""
    return [(row["step"], float(row[key])) for row in rows if key in row]


def _continued(rows: list[Row], lines: list[Row]) -> list[Row]:
    """Rows that count once these lines have followed them."""
    for line in lines:
        if "resumed_from" in line:
            rows = [row for row in rows if row["step"] <= line["resumed_from"]]
        elif "step" in line:
            rows.append(line)
    return rows


def _complete_lines(path: Path) -> list[Row]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    complete, _, _ = text.rpartition("\n")
    return [parse_row(path, line) for line in complete.split("\n") if line]


def _is_of_training(row: Mapping[str, Any]) -> bool:
    """Whether its neighbours tell nearly the same: not so of evaluations, and of lines that take others back."""
    return "train/loss" in row


def _plain(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)
