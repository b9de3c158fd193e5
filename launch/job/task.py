"""What every task of the job is: it starts one rank, passes signals on, and watches over it.

The rank is a process of its own, so that its death, whatever killed it, is seen and written down by somebody. A rank
that finished or saved ends its task with status 0; any other end is a failure of the task, on which SLURM
(``--kill-on-bad-exit``) ends all others at once, before they wait for their peer in a collective.

SLURM's signals only set the ranks' flags. Whether the job comes back is not decided here but in ``end``, when every
rank is gone: a `scontrol requeue` from inside a task races with the ranks that are still saving.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.preempt import EXIT_SAVED
from launch.failure import note_exit
from launch.job.allocation import Task
from launch.lifeline import Lifeline, end_if_silent
from launch.ranks import on_stop_signals, start_rank

POLL_SECONDS = 0.1


class RankTask:
    """What submitit carries to every task. It holds nothing: the environment says which attempt and which rank."""

    def __call__(self) -> None:
        """Run the rank of this task."""
        run_task()

    def checkpoint(self) -> Any:
        """For submitit, should it be asked to requeue before our handlers are in place: the same again."""
        import submitit  # noqa: PLC0415

        return submitit.helpers.DelayedSubmission(self)


def run_task() -> None:
    """Run one rank to its end; leaves with status 1 if it failed."""
    attempt_dir = RunDirectory(Path(os.environ["CAIT_RUN_DIR"])).attempt(int(os.environ["CAIT_ATTEMPT"]))
    task = Task.read()
    with ExitStack() as stack:
        # Held as long as rank 0 lives; `begin` has made sure that it is ours to take.
        held = (RunDirectory(attempt_dir.parent).lock(take_over=True),) if task.rank == 0 else ()
        lifeline = stack.enter_context(closing(Lifeline()))
        environment, inherited = rank_environment(task) | lifeline.environment, (*held, lifeline.end)
        rank = start_rank("launch.job.rank", attempt_dir, task.rank, environment, stack, inherited)
        with _passing_on_signals(rank):
            status = _wait(rank, lambda: end_if_silent(lifeline, rank, attempt_dir, task.rank))
    if status not in (0, EXIT_SAVED):
        note_exit(attempt_dir, task.rank, status, socket.gethostname())
        sys.exit(1)


def rank_environment(task: Task) -> dict[str, str]:
    """The variables by which ``process_group.join`` finds its place; the devices stay as SLURM gave them."""
    return {
        "WORLD_SIZE": str(task.size),
        "LOCAL_RANK": str(task.local_rank),
        "LOCAL_WORLD_SIZE": str(task.local_size),
    }


@contextmanager
def _passing_on_signals(rank: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)

    with on_stop_signals(pass_on):
        yield


def _wait(rank: subprocess.Popen[bytes], look: Callable[[], None] = lambda: None) -> int:
    # In slices: a signal may land on one of numpy's threads, and Python runs its handler only when this one wakes.
    stop_at = float(os.environ.get("CAIT_STOP_AT", "inf"))
    while (status := rank.poll()) is None:
        if time.time() > stop_at:
            stop_at = float("inf")
            rank.send_signal(signal.SIGTERM)
        look()
        time.sleep(POLL_SECONDS)
    return status


if __name__ == "__main__":
    run_task()
