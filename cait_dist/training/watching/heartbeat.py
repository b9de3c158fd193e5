"""A rank's sign of life, and what it does when nothing goes on.

A thread says every few seconds what the rank does (``hang.Beat``), and looks whether something went on. It also lives
while the main thread waits for the others, so a rank that waits can tell whom it waits for, and says where all of its
threads stand. A rank that is stopped, or whose interpreter is stuck in foreign code, cannot: whoever started it hears
no more from it (through a pipe, see ``launch.lifeline``), and ends it.

After ``limit`` seconds without progress a rank tells; then the one to blame leaves first, so that the others fail in
their exchange and close what they write in good order; who does not get that far is ended. If it all went on in the
meantime, nothing has happened.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from ..ranks.naming import host_name
from .activity import ENDING, EVALUATION, SAVING, STARTING, Activity, start_over
from .hang import Beat, beat_file, explain_hang, note_hang, read_beats, write_beat

LIFELINE = "CAIT_LIFELINE_FD"
"""Names the inherited pipe on which a rank says for how many seconds it may be silent from now on."""
TELL_STACKS = signal.SIGQUIT
"""Has a rank write down where its threads stand."""
SECONDS, RANKS_PER_SECOND = 2.0, 50
"""Between two heartbeats; more where a file system would have more of them to bear than this in a second."""
PATIENCE = 4
"""So many times longer may the first step, an evaluation and a save stand still."""
BLAMED_LEAVES, OTHERS_LEAVE, SILENT_ENDS = 5.0, 30.0, 10.0
"""Seconds after the limit."""
TIMED_OUT = r"Timed out waiting \d+ ?ms"
"""What gloo says of an exchange in which somebody was missing."""


def hang_limit(hang_timeout: float | None, collective_timeout: float) -> float:
    """Seconds that a rank may stand still: before its exchange would end with less to tell, unless it is given."""
    return hang_timeout if hang_timeout is not None else 0.75 * collective_timeout


class Heartbeat:
    """The thread that says what this rank does. Used as a context.

    Args:
        attempt_dir: of the attempt, on storage that all ranks share
        rank: of this process
        size: number of ranks
        limit: seconds without progress, see ``hang_limit``
    """

    def __init__(self, attempt_dir: Path, rank: int, size: int, limit: float) -> None:
        self._attempt_dir, self._rank, self._size, self._limit = attempt_dir, rank, size, limit
        self._every = min(max(SECONDS, size / RANKS_PER_SECOND), limit / 3)
        self._now: Activity = start_over()
        self._found = attempt_dir / f"rank-{rank}.hang.json"
        self._lifeline = int(os.environ.get(LIFELINE, "-1"))
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._blamed: bool | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._stacks: IO[str] | None = None

    def __enter__(self) -> Heartbeat:
        """Begin."""
        beat_file(self._attempt_dir, self._rank).parent.mkdir(exist_ok=True)
        self._stacks = (self._attempt_dir / f"rank-{self._rank}.stacks.txt").open("w")
        # In C, for an interpreter that is stuck in foreign code and lets no thread run. That may crash if others do
        # run, so only whoever is about to end this process asks for it.
        faulthandler.register(TELL_STACKS, file=self._stacks, all_threads=True)
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was found stays."""
        if error is not None and self._blamed is None:
            self.explain(error)
        self._closed.set()
        self._thread.join(self._every + 1)
        faulthandler.unregister(TELL_STACKS)
        assert self._stacks is not None
        self._stacks.close()
        if not Path(self._stacks.name).stat().st_size:
            Path(self._stacks.name).unlink()

    def explain(self, error: BaseException) -> None:
        """Tell whom this rank waited for, if its exchange ended because the time was up."""
        if re.search(TIMED_OUT, str(error)):
            with self._lock:
                self._tell(time.monotonic() - self._now.progress)

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._closed.wait(self._every):
            paused = time.monotonic() - looked - self._every
            if paused > self._every:
                # This process was stopped, or starved: that time is nobody's fault.
                self._now.progress += paused
            looked = time.monotonic()
            with suppress(OSError):  # a file system that stutters is no reason to be silent on the pipe
                self._beat()
            with self._lock:
                self._look(time.monotonic() - self._now.progress)

    def _beat(self) -> None:
        allowed = (self._limit_now(to_be_silent=True) or self._limit) + SILENT_ENDS
        if self._lifeline >= 0:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._lifeline, f"{allowed:.1f}\n".encode())
        now = self._now
        idle = round(time.monotonic() - now.progress, 1)
        mine = Beat(self._rank, host_name(), os.getpid(), now.step, now.part, now.exchange, now.begun, idle)
        write_beat(beat_file(self._attempt_dir, self._rank), mine)

    def _limit_now(self, *, to_be_silent: bool = False) -> float | None:
        now = self._now
        if now.part in (STARTING, ENDING) and not to_be_silent:
            return None  # loading and closing take their time; whoever waits for it in an exchange has a limit
        patient = now.part in (STARTING, EVALUATION, SAVING, ENDING) or now.steps_begun <= 1
        return self._limit * (PATIENCE if patient else 1)

    def _look(self, idle: float) -> None:
        limit = self._limit_now()
        if limit is None:
            return  # at the end, what was found may be why
        if idle < limit:
            self._withdraw()
        elif self._blamed is None:
            self._tell(idle)
        elif idle > limit + (BLAMED_LEAVES if self._blamed else OTHERS_LEAVE):
            print(f"rank {self._rank} ends: nothing went on for {idle:.0f} s", file=sys.stderr, flush=True)
            os._exit(1)

    def _tell(self, idle: float) -> None:
        with suppress(OSError):
            self._beat()
        assert self._stacks is not None
        faulthandler.dump_traceback(self._stacks, all_threads=True)
        silent_after = 3 * self._every + 1
        hang = explain_hang(read_beats(self._attempt_dir, self._size), idle, silent_after)
        self._blamed = self._rank in hang.blamed
        print(f"{hang.message}; where this rank stands: {self._stacks.name}", file=sys.stderr, flush=True)
        note_hang(self._found, hang)

    def _withdraw(self) -> None:
        if self._blamed is not None:
            self._blamed = None
            self._found.unlink(missing_ok=True)
            print("it went on", file=sys.stderr, flush=True)
