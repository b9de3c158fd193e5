"""Hearing whether a rank lives, by a pipe from it to the process that started it.

A rank says every few seconds for how long it may be silent (``cait_dist.training.watching.heartbeat``). A rank that is
stopped (SIGSTOP, a debugger) or stuck in foreign code says nothing, and can do nothing about it either: it is ended
with SIGKILL, the one signal that also ends a stopped process. Nothing is read from a file system for that.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cait_dist.training.watching.hang import explain_hang, note_hang, read_beats
from cait_dist.training.watching.heartbeat import LIFELINE, TELL_STACKS

SLICE = 1.0
"""Most seconds that count between two looks: a job that SLURM suspends stops with the process that watches."""


class Lifeline:
    """Of one rank; ask ``silent`` often."""

    def __init__(self) -> None:
        self._hear, self.end = os.pipe()
        os.set_blocking(self._hear, False)
        os.set_blocking(self.end, False)
        self._allowed, self._waited, self._looked = float("inf"), 0.0, time.monotonic()

    @property
    def environment(self) -> dict[str, str]:
        """By which the rank finds its end, which it inherits."""
        return {LIFELINE: str(self.end)}

    def close(self) -> None:
        """Both ends, as far as they are this process's."""
        os.close(self._hear)
        os.close(self.end)

    def silent(self) -> bool:
        """Whether the rank has been silent for longer than it said."""
        now = time.monotonic()
        self._waited += min(now - self._looked, SLICE)
        self._looked = now
        if heard := self._read():
            self._allowed, self._waited = heard, 0.0
        return self._waited > self._allowed

    def _read(self) -> float | None:
        try:
            lines = os.read(self._hear, 65536).decode().split()
        except BlockingIOError:
            return None
        return float(lines[-1]) if lines else None


def end_if_silent(lifeline: Lifeline, process: subprocess.Popen[bytes], attempt_dir: Path, rank: int) -> None:
    """Kill a rank that is not heard of any more, and write down what it last did."""
    if process.poll() is not None or not lifeline.silent():
        return
    beat = read_beats(attempt_dir, rank + 1)[rank]
    beat = type(beat)(**{**beat.__dict__, "age": lifeline._waited})
    note_hang(attempt_dir / f"rank-{rank}.silent.json", explain_hang([beat], lifeline._waited, 0.0))
    process.send_signal(TELL_STACKS)
    with suppress(subprocess.TimeoutExpired):
        process.wait(SLICE)
    process.kill()
