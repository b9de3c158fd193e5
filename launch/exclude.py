"""Leaving slow nodes out when a job is put back into the queue.

SLURM changes what a job excludes only while the job waits, so this comes after the requeue. SLURM then ends what is
left of the job, this process included, but gives it some seconds, and SIGTERM is passed over for that time. The list
stays with the job: nodes that it or the user excluded before remain excluded.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from .slurm_commands import SlurmError, call, hostnames, job_facts

TRY_SECONDS = 20.0
OUT_OF_USE = ("down", "drain", "drng", "fail", "maint", "unk", "inval")


def survive_requeue() -> None:
    """Be there when the job waits."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def exclude(job_id: str, slow: Sequence[str]) -> str:
    """Exclude nodes from a job that waits, or is about to; returns what became of it, for the log."""
    named, facts = ", ".join(slow), job_facts(job_id)
    before = [] if facts.get("ExcNodeList", "(null)") == "(null)" else hostnames(facts["ExcNodeList"])
    unwanted = sorted({*before, *slow})
    if not _enough_without(unwanted, facts):
        return f"{named} stays in use, as too few nodes would be left without it"
    try:
        _insist("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(unwanted)}")
    except SlurmError as error:
        return f"{named} could not be excluded ({error})"
    return f"{named} was slow, and is left out from now on"


def _enough_without(unwanted: Sequence[str], facts: dict[str, str]) -> bool:
    try:
        lines = call("sinfo", "-h", "-N", "-p", facts["Partition"], "-o", "%N %t").splitlines()
        needed = int(facts["NumNodes"].partition("-")[0])
    except (SlurmError, KeyError, ValueError):
        return False
    states = dict(line.split() for line in lines if len(line.split()) == 2)
    usable = {node for node, state in states.items() if not state.startswith(OUT_OF_USE)}
    return len(usable - set(unwanted)) >= needed


def _insist(*command: str) -> None:
    deadline = time.monotonic() + TRY_SECONDS
    while True:
        try:
            call(*command)
        except SlurmError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return
