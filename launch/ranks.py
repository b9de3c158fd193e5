"""Starting the process of one rank, on whichever machine this is."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from cait_dist.training.preempt import STOP_SIGNALS

from .failure import log_of


def start_rank(
    program: str,
    attempt_dir: Path,
    rank: int,
    environment: Mapping[str, str],
    stack: ExitStack,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start ``python -m PROGRAM RUN_DIR ATTEMPT`` as a rank of an attempt.

    Rank 0 keeps this process's standard output; everything else goes to ``rank-R.log``, appended, closed by ``stack``.
    """
    log = stack.enter_context(log_of(attempt_dir, rank).open("ab"))
    number = attempt_dir.name.removeprefix("attempt-")
    with _stop_signals_wait():
        return subprocess.Popen(
            [sys.executable, "-m", program, str(attempt_dir.parent), number],
            env={**os.environ, **environment, "RANK": str(rank), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else log,
            stderr=log,
            pass_fds=tuple(pass_fds),
            # A group of its own: Ctrl-C reaches the process that watches, which passes it on in an orderly way.
            start_new_session=True,
        )


@contextmanager
def on_stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have a handler called when this process is asked to stop, instead of what would happen otherwise."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def _stop_signals_wait() -> Iterator[None]:
    """Have a process that starts here hold stop signals back until it can understand them (``StopRequest.listen``).

    SLURM sends its warning to every process of a step, also to one that is still loading and would die of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
