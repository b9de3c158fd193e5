"""Who is waited for, when nothing goes on: read from what the ranks last wrote of themselves.

::

    attempt-1/
      heartbeat/rank-3.json  every few seconds, by a thread of the rank: step, part of it, host, process
      rank-3.stacks.txt      where all threads of a rank stood when it found that nothing goes on
      rank-3.hang.json       what that rank made of it
      rank-3.silent.json     what the process that started rank 3 says: it was not heard of, and was ended

A rank that is stopped, or whose machine is, writes nothing more: it is *silent*. One that is stuck by itself (a file
system, a deadlock) writes on, but has begun fewer parts of the step than the others: it is *behind*. Where neither can
be said, all wait for a message that does not arrive, and the network is to blame.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..ranks.naming import in_ranges

WIDTH = 400
"""Bytes of a heartbeat: all have the same length, so that one is overwritten in place and never half read."""


@dataclass(frozen=True)
class Beat:
    """What a rank last said of itself.

    Attributes:
        rank: of it.
        host: it runs on, empty if it was never heard of.
        process: its number there.
        step: that it did.
        part: of the step.
        exchange: that it waited in, if any that is noted.
        begun: parts and exchanges begun.
        idle: seconds in which nothing went on, when it said so.
        age: seconds since, by the clock of the file system.
    """

    rank: int
    host: str = ""
    process: int = 0
    step: int = 0
    part: str = ""
    exchange: str = ""
    begun: int = 0
    idle: float = 0.0
    age: float = float("inf")

    @property
    def place(self) -> str:
        """In which step and part it is."""
        where = f"step {self.step}, {self.part}" if self.step else self.part
        return f"{where} ({self.exchange})" if self.exchange else where


@dataclass(frozen=True)
class Hang:
    """Nothing went on.

    Attributes:
        blamed: ranks that the others wait for; empty if that cannot be said.
        message: for the user, one line.
        signature: what two equal hangs have in common.
        time: when it was found, seconds since the epoch.
    """

    blamed: list[int]
    message: str
    signature: str
    time: float


def beat_file(attempt_dir: Path, rank: int) -> Path:
    """Where a rank writes its heartbeat."""
    return attempt_dir / "heartbeat" / f"rank-{rank}.json"


def write_beat(path: Path, beat: Beat) -> None:
    """Overwrite a heartbeat. Opening and closing makes it seen on other machines, also on NFS."""
    facts = {key: value for key, value in asdict(beat).items() if key != "age"}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, json.dumps(facts).ljust(WIDTH).encode(), 0)
    finally:
        os.close(descriptor)


def read_beats(attempt_dir: Path, size: int) -> list[Beat]:
    """The last heartbeats of all ranks, in order; their ages are against the newest, as clocks of nodes differ."""
    found, written = dict[int, dict[str, Any]](), dict[int, float]()
    for rank in range(size):
        with suppress(OSError, ValueError), beat_file(attempt_dir, rank).open() as file:
            written[rank] = os.fstat(file.fileno()).st_mtime
            found[rank] = json.load(file)
    now = max(written.values(), default=0.0)
    return [Beat(**found[r], age=now - written[r]) if r in found else Beat(r) for r in range(size)]


def explain_hang(beats: Sequence[Beat], seconds: float, silent_after: float) -> Hang:
    """Tell who is waited for.

    Args:
        beats: of all ranks
        seconds: in which nothing went on
        silent_after: seconds without a heartbeat that are no accident
    """
    silent = [beat for beat in beats if beat.age > silent_after]
    least, most = min(beat.begun for beat in beats), max(beat.begun for beat in beats)
    behind = [beat for beat in beats if beat.begun == least] if least < most else []
    blamed = silent or behind
    if not blamed:
        return _nobody(beats, seconds)
    told = "; ".join(_told(group, bool(silent), seconds) for group in _grouped(blamed))
    others = Counter(beat.place for beat in beats if beat not in blamed)
    waiting = f"; the others wait in {others.most_common(1)[0][0]}" if others else ""
    ranks = [beat.rank for beat in blamed]
    parts = ", ".join(sorted({beat.part for beat in blamed}))
    return Hang(ranks, told + waiting, f"ranks {in_ranges(ranks)} hung, last in {parts}", time.time())


def _grouped(beats: Sequence[Beat]) -> list[list[Beat]]:
    groups: dict[tuple[str, str], list[Beat]] = {}
    for beat in beats:
        groups.setdefault((beat.host, beat.place), []).append(beat)
    return list(groups.values())


def _told(group: Sequence[Beat], silent: bool, seconds: float) -> str:
    first, several = group[0], len(group) > 1
    who = f"rank{'s' if several else ''} {in_ranges(beat.rank for beat in group)}"
    if not first.host:
        return f"{who} {'have' if several else 'has'} never been heard of"
    who += f" on node {first.host}"
    if silent:
        return f"{who} {'have' if several else 'has'} not been heard of for {first.age:.0f} s, last in {first.place}"
    lasting = max(seconds, first.idle)
    return f"{who} {'do' if several else 'does'} not get on: for {lasting:.0f} s in {first.place}"


def _nobody(beats: Sequence[Beat], seconds: float) -> Hang:
    place = Counter(beat.place for beat in beats).most_common(1)[0][0]
    if len(beats) == 1:
        told = _told(beats, False, seconds)
        return Hang([beats[0].rank], told, f"rank {beats[0].rank} hung in {beats[0].part}", time.time())
    message = (
        f"nothing goes on for {seconds:.0f} s in {place}: every rank is heard of and waits for the others, so a message"
        " between them is lost (look at the network)"
    )
    return Hang([], message, f"all ranks hung in {beats[0].part}", time.time())


def note_hang(path: Path, hang: Hang) -> None:
    """Write down what was found."""
    path.write_text(json.dumps(asdict(hang)))


def first_hang(attempt_dir: Path) -> Hang | None:
    """The first finding that names somebody, else the first; None if all went on."""
    found = [hang for path in attempt_dir.glob("rank-*.hang.json") if (hang := _read(path))]
    found += [hang for path in attempt_dir.glob("rank-*.silent.json") if (hang := _read(path))]
    return min(found, key=lambda hang: (not hang.blamed, hang.time), default=None)


def _read(path: Path) -> Hang | None:
    with suppress(OSError, ValueError, TypeError):
        return Hang(**json.loads(path.read_text()))
    return None
