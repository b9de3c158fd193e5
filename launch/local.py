"""All ranks of a run on this machine.

Rank 0 keeps the terminal; the others write to ``attempt-K/rank-R.log``. When one rank fails, the rest would wait for
it in a collective, so they are ended; what the user then sees is the failure that came first, not those it caused.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cait_dist.training.preempt import EXIT_SAVED
from cait_dist.training.ranks.process_group import LISTENING_SOCKET

from .failure import Failure, first_failure, note_failure, tell_mlflow
from .lifeline import Lifeline, end_if_silent
from .ranks import on_stop_signals, start_rank

if TYPE_CHECKING:
    from cait_dist.training.starting.attempt import Attempt

GRACE_SECONDS = 20.0
"""How long the other ranks may go on after one failed: long enough for rank 0 to close its records."""
POLL_SECONDS = 0.05


def run_locally(attempt: "Attempt", processes: int) -> int:
    """Run an attempt on this machine and return the status to exit with.

    Signals are passed on: the ranks agree, save and stop, and the status is 75. A second Ctrl-C ends them at once.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=processes + 8))
        lifelines = [stack.enter_context(closing(Lifeline())) for _ in range(processes)]
        ranks = [_start_rank(attempt, rank, lifelines, listener, stack) for rank in range(processes)]
        listener.close()
        with _passing_on_signals(ranks):
            failure = _watch(ranks, lifelines, attempt.directory)
    if failure is not None:
        _note(attempt, failure)
        os.close(attempt.lock)
        tell_mlflow(attempt.run)
        print(failure.message, file=sys.stderr)
        return failure.status
    return max(rank.returncode for rank in ranks)


def _note(attempt: "Attempt", failure: Failure) -> None:
    """Keep what rank 0 may not have lived to write, unless the record is somebody else's by now."""
    entry = attempt.run.read_record()["attempts"][-1]
    ours = entry["number"] == attempt.number and attempt.run.is_latest(attempt.number)
    if ours and entry.get("outcome") not in ("finished", "stopped"):
        try:
            note_failure(attempt.run, attempt.number, failure)
        except OSError as error:
            print(f"{attempt.run.record} does not tell of this end ({error.strerror})", file=sys.stderr)


def _start_rank(
    attempt: "Attempt", rank: int, lifelines: list[Lifeline], listener: socket.socket, stack: ExitStack
) -> "subprocess.Popen[bytes]":
    inherited = (attempt.lock, lifelines[rank].end, *((listener.fileno(),) if rank == 0 else ()))
    environment = rank_environment(rank, len(lifelines), listener) | lifelines[rank].environment
    return start_rank("cait_dist.training.worker", attempt.directory, rank, environment, stack, inherited)


def rank_environment(rank: int, processes: int, listener: socket.socket) -> dict[str, str]:
    """The variables by which ``process_group.join`` finds its rank and the others; rank 0 inherits the listener."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(listener.getsockname()[1]),
        LISTENING_SOCKET: str(listener.fileno()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // processes))),
    }


@contextmanager
def _passing_on_signals(ranks: "list[subprocess.Popen[bytes]]") -> Iterator[None]:
    received = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 1:
            print("\nstopping: the ranks save at the end of this step (again: end them at once)", file=sys.stderr)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signal.SIGTERM if received == 1 else signal.SIGKILL)

    with on_stop_signals(pass_on):
        yield


def _watch(ranks: "list[subprocess.Popen[bytes]]", lifelines: list[Lifeline], directory: Path) -> Failure | None:
    """Wait for all ranks; end one that is not heard of, and once one has failed, the rest after a while."""
    deadline, ended_here = float("inf"), set[int]()
    while None in (states := [rank.poll() for rank in ranks]):
        if deadline == float("inf") and any(state not in (None, 0, EXIT_SAVED) for state in states):
            deadline = time.monotonic() + GRACE_SECONDS
        for number, lifeline in enumerate(lifelines):
            end_if_silent(lifeline, ranks[number], directory, number)
        if time.monotonic() > deadline:
            ended_here |= {number for number, state in enumerate(states) if state is None}
            _end(ranks)
        time.sleep(POLL_SECONDS)
    if all(state in (0, EXIT_SAVED) for state in states):
        return None
    return first_failure({n: int(s) for n, s in enumerate(states) if s and n not in ended_here}, directory)


def _end(ranks: "list[subprocess.Popen[bytes]]") -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
