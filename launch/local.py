"""All ranks of a run on this machine.

Rank 0 keeps the terminal; the others write to ``attempt-K/rank-R.log``. When one rank fails, the rest would wait for
it in a collective, so they are ended; what the user then sees is the failure that came first, not those it caused.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

from cait_dist.training.preempt import EXIT_SAVED, STOP_SIGNALS
from cait_dist.training.process_group import LISTENING_SOCKET

if TYPE_CHECKING:
    from cait_dist.training.attempt import Attempt

GRACE_SECONDS = 20.0
"""How long the other ranks may go on after one failed: long enough for rank 0 to close its records."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Failure:
    """The first failure of an attempt."""

    rank: int
    message: str
    status: int


def run_locally(attempt: "Attempt", processes: int) -> int:
    """Run an attempt on this machine and return the status to exit with.

    Signals are passed on: the ranks agree, save and stop, and the status is 75. A second Ctrl-C ends them at once.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=processes + 8))
        ranks = [_start_rank(attempt, rank, processes, listener, stack) for rank in range(processes)]
        listener.close()
        with _passing_on_signals(ranks):
            failure = _watch(ranks, attempt.directory)
    if failure is not None:
        print(failure.message, file=sys.stderr)
        return failure.status
    return max(rank.returncode for rank in ranks)


def _start_rank(
    attempt: "Attempt", rank: int, processes: int, listener: socket.socket, stack: ExitStack
) -> "subprocess.Popen[bytes]":
    output = None if rank == 0 else stack.enter_context((attempt.directory / f"rank-{rank}.log").open("wb"))
    inherited = (attempt.lock, listener.fileno()) if rank == 0 else (attempt.lock,)
    return subprocess.Popen(
        [sys.executable, "-m", "cait_dist.training.worker", str(attempt.run.path), str(attempt.number)],
        env={**os.environ, **rank_environment(rank, processes, listener)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output or _log_of_main_rank(attempt.directory, stack),
        pass_fds=inherited,
        # A group of its own: Ctrl-C reaches this process alone, which passes it on in an orderly way.
        start_new_session=True,
    )


def _log_of_main_rank(directory: Path, stack: ExitStack) -> BinaryIO:
    return stack.enter_context((directory / "rank-0.log").open("wb"))


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
        "PYTHONUNBUFFERED": "1",
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

    before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(ranks: "list[subprocess.Popen[bytes]]", directory: Path) -> Failure | None:
    """Wait for all ranks; once one has failed, end the rest after a while."""
    deadline, ended_here = float("inf"), set[int]()
    while None in (states := [rank.poll() for rank in ranks]):
        if deadline == float("inf") and any(state not in (None, 0, EXIT_SAVED) for state in states):
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            ended_here |= {number for number, state in enumerate(states) if state is None}
            _end(ranks)
        time.sleep(POLL_SECONDS)
    if all(state in (0, EXIT_SAVED) for state in states):
        return None
    return _first_failure({n: int(s) for n, s in enumerate(states) if s and n not in ended_here}, directory)


def _end(ranks: "list[subprocess.Popen[bytes]]") -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()


def _first_failure(states: dict[int, int], directory: Path) -> Failure:
    """Tell the cause from its consequences.

    A rank that a signal ended had no chance to report, and its peers report that they lost it. SIGABRT is the
    exception: with it NCCL's watchdog ends ranks that wait for a failed peer.
    """
    killed = [rank for rank, state in states.items() if state < 0 and state != -signal.SIGABRT]
    reports = sorted((json.loads(p.read_text()) for p in directory.glob("rank-*.error.json")), key=lambda r: r["time"])
    if killed or not reports:
        rank = killed[0] if killed else next(rank for rank, state in states.items() if state != EXIT_SAVED)
        return Failure(rank, f"rank {rank} {_death(states[rank])}; its output: {_log(directory, rank)}", 1)
    first = reports[0]
    rank = first["rank"]
    if first["explained"]:
        return Failure(rank, f"rank {rank}: {first['message']}", states.get(rank, 1))
    return Failure(rank, f"rank {rank} failed first:\n{first['traceback']}(its output: {_log(directory, rank)})", 1)


def _death(status: int) -> str:
    if status >= 0:
        return f"ended with status {status} and without an explanation"
    name = signal.Signals(-status).name
    hint = " — often the system ran out of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _log(directory: Path, rank: int) -> Path:
    return directory / f"rank-{rank}.log"
