"""A job of one process that submitit runs as it is, and that is simply begun again after whatever ended it early."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from cait_dist.errors import is_for_user


class PlainTask:
    """Something to do that finds out by itself what of it is done already."""

    def work(self) -> None:
        """Do it."""
        raise NotImplementedError

    def __call__(self) -> None:
        """For submitit: do it; what the user can mend is told in a line, with status 2."""
        take_signals_alone()
        try:
            self.work()
        except ValueError as error:
            if not is_for_user(error):
                raise
            print(f"cait: {error}", flush=True)
            sys.exit(2)

    def checkpoint(self) -> Any:
        """For submitit, on SLURM's warning: the same again."""
        import submitit  # noqa: PLC0415

        return submitit.helpers.DelayedSubmission(self)


def take_signals_alone() -> None:
    """Leave SLURM's warning to this process, and let SIGTERM end it.

    submitit asks to be requeued when warned. A forked worker inherits that handler and the warning, which reaches every
    process of a step, and would ask a second time. SIGTERM, which submitit passes over, is what `scancel` sends: passed
    over, it costs half a minute until SLURM kills.
    """
    asks_for_requeue = signal.getsignal(signal.SIGUSR2)
    owner = os.getpid()

    def only_here(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner and callable(asks_for_requeue):
            asks_for_requeue(number, frame)

    signal.signal(signal.SIGUSR2, only_here)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def granted_cores() -> int:
    """Cores that SLURM gave to this task; one where it does not say."""
    return min(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")), len(os.sched_getaffinity(0)))
