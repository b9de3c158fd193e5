"""The metrics files of a run, read on from where one stopped: a batch at a time, however much there is.

The place is a cursor that can be written down. What it counts is what `read_metrics` counts, with one addition: a
value that was handed out is final. When a run goes back behind it, because its newest checkpoint was damaged or
somebody chose an older one, the steps that are done again are passed over, so that there is still one value of each.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .metrics import Row
from .run_directory import RunDirectory

_RETURN = b'{"resumed_from"'


@dataclass(frozen=True)
class Cursor:
    """How far the metrics were read.

    Attributes:
        attempt: whose file is read now
        offset: bytes of it that were read
        step: the highest step handed out
        keys: metrics of that step that were handed out: the line of an evaluation follows that of its step
    """

    attempt: int = 1
    offset: int = 0
    step: int = -1
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any] | None) -> "Cursor":
        """From what `facts` gave; the beginning for None."""
        return cls(**{**facts, "keys": tuple(facts["keys"])}) if facts else cls()

    def facts(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"attempt": self.attempt, "offset": self.offset, "step": self.step, "keys": list(self.keys)}


@dataclass(frozen=True)
class Batch:
    """Lines with only what is new in them, and the cursor behind them."""

    rows: list[Row]
    cursor: Cursor


class MetricsTail:
    """Reads a run's metrics in batches."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._begins: dict[int, int] = {}
        self._returns: dict[int, _Returns] = {}

    def read(self, cursor: Cursor, durable: float, most: int) -> Batch | None:
        """The next lines.

        Args:
            cursor: where the last batch ended
            durable: the newest attempt's lines count up to this step; those of the others up to where it went on
            most: values in the batch, give or take a line

        Returns:
            None when there is nothing now
        """
        self._look_for_attempts()
        gathering, numbers = _Gathering(cursor), sorted(n for n in self._begins if n >= cursor.attempt)
        places = self._places(numbers, cursor)
        for index, (number, start, _) in enumerate(places):
            gathering.enter(number, start)
            later = places[index + 1 :]
            limit = min((begin for _, _, begin in later), default=durable)
            end_of_place = later[0][1] if later and later[0][0] == number else math.inf
            if not gathering.take(self._file(number), limit, most, end_of_place):
                break
        end = gathering.cursor
        return None if end == cursor else Batch(gathering.rows, end)

    @property
    def newest(self) -> int:
        """Number of the newest attempt that has begun to write; 1 where none has."""
        self._look_for_attempts()
        return max(self._begins, default=1)

    def size(self) -> int:
        """Bytes of all files."""
        self._look_for_attempts()
        return sum(self._file(number).stat().st_size for number in self._begins)

    def read_bytes(self, cursor: Cursor) -> int:
        """Bytes that lie before a cursor."""
        before = (self._file(number).stat().st_size for number in self._begins if number < cursor.attempt)
        return sum(before) + cursor.offset

    def _places(self, numbers: list[int], cursor: Cursor) -> list[tuple[int, int, int]]:
        """Where the files go on from a step, from the cursor on: (attempt, offset, that step)."""
        places = []
        for number in numbers:
            start = cursor.offset if number == cursor.attempt else 0
            places.append((number, start, self._begins[number]))
            returns = self._returns.setdefault(number, _Returns(start))
            places += [(number, offset, begin) for offset, begin in returns.since(start, self._file(number))]
        return places

    def _file(self, number: int) -> Path:
        return self._run.attempt(number) / "metrics.jsonl"

    def _look_for_attempts(self) -> None:
        numbers = [int(path.name.removeprefix("attempt-")) for path in self._run.attempts()]
        for number in numbers:
            if number not in self._begins and (begin := _begin(self._file(number))) is not None:
                self._begins[number] = begin


class _Gathering:
    """A batch while it grows."""

    def __init__(self, cursor: Cursor) -> None:
        self.rows: list[Row] = []
        self._attempt, self._offset = cursor.attempt, cursor.offset
        self._step, self._keys = cursor.step, set(cursor.keys)
        self._values = 0

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._attempt, self._offset, self._step, tuple(sorted(self._keys)))

    def enter(self, attempt: int, offset: int) -> None:
        """Go on at a place of an attempt's file."""
        self._attempt, self._offset = attempt, offset

    def take(self, file: Path, limit: float, most: int, end: float) -> bool:
        """Read lines up to a step or the end of the place; returns whether there is room for those that follow."""
        with file.open("rb") as lines:
            lines.seek(self._offset)
            while self._values < most:
                if self._offset >= end:
                    return True
                line = lines.readline()
                row = _parsed(line)
                # A line without its end is being written, or was when its writer died.
                if not line.endswith(b"\n") or row.get("step", -math.inf) > limit:
                    return True
                self._offset += len(line)
                self._keep(row)
        return False

    def _keep(self, row: Row) -> None:
        step = row.get("step", -1)
        if step > self._step:
            self._step, self._keys = step, set()
        new = {key: value for key, value in row.items() if key not in ("step", "time") and key not in self._keys}
        if step < self._step or "step" not in row or not new:
            return
        self._keys |= new.keys()
        self._values += len(new)
        self.rows.append({"step": step, "time": row["time"], **new})


class _Returns:
    """Where an attempt has gone back by itself: lines like the first one, further on in its file.

    Args:
        start: bytes of the file that need not be looked at
    """

    def __init__(self, start: int) -> None:
        self._start = self._end = start
        self._found: list[tuple[int, int]] = []

    def since(self, start: int, file: Path) -> list[tuple[int, int]]:
        """Offset of each such line from ``start`` on, and the step it names; what was looked at is not read again."""
        if start < self._start:
            self._start, self._end, self._found = start, start, []
        with file.open("rb") as lines:
            lines.seek(self._end)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if line.startswith(_RETURN) and self._end > 0:
                    self._found.append((self._end, int(_parsed(line).get("resumed_from", 0))))
                self._end += len(line)
        return [found for found in self._found if found[0] > start]


def _begin(file: Path) -> int | None:
    try:
        with file.open("rb") as lines:
            first = lines.readline()
    except FileNotFoundError:
        return None
    return int(_parsed(first).get("resumed_from", 0)) if first.endswith(b"\n") else None


def _parsed(line: bytes) -> Row:
    """A line's content, empty where a failing disk has damaged it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}
