"""Faults of processes and jobs: they need no more power than their owner has."""

from __future__ import annotations

import signal
from random import Random

from .fault import Fault, Mend, Strike, nothing_to_mend
from .subject import Subject

SHORT_TIMEOUT = 25
"""Seconds after which a silent rank is given up, so that nobody waits the usual ten minutes."""


def _to_a_rank(number: int, which: str = "rank") -> Strike:
    def strike(subject: Subject, random: Random) -> Mend | None:
        return nothing_to_mend if subject.signal_rank(random, number, which) else None

    return strike


def _requeue(subject: Subject, random: Random) -> Mend | None:
    done = subject.ground.run(["scontrol", "requeue", subject.job_id])
    return nothing_to_mend if done.returncode == 0 else None


def _preempt(subject: Subject, random: Random) -> Mend | None:
    nodes = ",".join(subject.nodes)
    options = ["--partition=high", "--exclusive", "--output=/dev/null", f"--nodelist={nodes}"]
    done = subject.ground.run(["sbatch", *options, "--wrap", "sleep 1"])
    return nothing_to_mend if done.returncode == 0 else None


PROCESS_FAULTS = (
    Fault(
        "rank-killed", "SIGKILL to a rank", _to_a_rank(signal.SIGKILL),
        interrupts=True,
    ),
    Fault(
        "rank-hung", "SIGSTOP to a rank: it lives and does nothing", _to_a_rank(signal.SIGSTOP),
        interrupts=True,
        settings=(f"training.collective_timeout={SHORT_TIMEOUT}",),
    ),
    Fault("rank-terminated", "SIGTERM to a rank", _to_a_rank(signal.SIGTERM), interrupts=True),
    Fault(
        "worker-killed", "SIGKILL to a process that loads images, as the kernel does when memory runs out",
        _to_a_rank(signal.SIGKILL, "worker"), interrupts=True,
    ),
    Fault("requeued", "`scontrol requeue`, as an administrator does", _requeue, interrupts=True),
    Fault(
        "preempted", "a job of higher priority wants the nodes", _preempt, interrupts=True, needs_mini=True,
        profile={"partition": "low", "sbatch": {"exclusive": True}},
    ),
)  # fmt: skip
