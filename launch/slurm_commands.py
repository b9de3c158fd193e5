"""SLURM's own commands, and their answers in words that help.

Only what every SLURM since 2019 prints the same way is read: formats given by ``-o``, and ``scontrol -o show job``.
There is no `sacct` here: many clusters have none, and all that a job must know of itself is in its run directory.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 60.0


class SlurmError(ValueError):
    """SLURM refused, or is not there; the message says what to change."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that is in the queue: waiting, running or ending."""

    job_id: str
    """``12``, or ``12_3`` for a member of an array"""
    state: str
    """PENDING, RUNNING, COMPLETING, …"""
    reason: str
    """why it waits"""
    nodes: str
    elapsed: str
    start: str


def call(*command: str, timeout: float = TIMEOUT) -> str:
    """Run one of SLURM's commands and return what it prints.

    Raises:
        SlurmError: with SLURM's own words when it refuses, does not answer or is not installed
    """
    if shutil.which(command[0]) is None:
        raise SlurmError(f"there is no '{command[0]}' here: call this on a machine from which jobs are submitted")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=_plain())
    except subprocess.TimeoutExpired:
        raise SlurmError(f"SLURM does not answer: '{command[0]}' took more than {timeout:g} s; try again") from None
    if done.returncode:
        raise SlurmError(_words(done.stderr) or f"'{' '.join(command)}' ended with status {done.returncode}")
    return done.stdout


def _plain() -> dict[str, str]:
    # A job that submits must not hand its own allocation on, and formats must not be the user's.
    return {k: v for k, v in os.environ.items() if not re.match(r"SBATCH_|SQUEUE_|SINFO_|SLURM_TIME_FORMAT", k)}


def _words(text: str) -> str:
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line) for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


def queue() -> dict[str, QueuedJob]:
    """This user's jobs that are waiting or running, by id; the members of an array one by one."""
    fields = "%i|%T|%r|%N|%M|%S"
    lines = call("squeue", "--noheader", "--array", f"--user={os.getuid()}", f"--format={fields}").splitlines()
    jobs = (QueuedJob(*(part.strip() for part in line.split("|", 5))) for line in lines if line.count("|") >= 5)
    return {job.job_id: job for job in jobs}


def job_facts(job_id: str) -> dict[str, str]:
    """What SLURM still knows about a job, also for some minutes after its end; empty when it knows nothing."""
    try:
        return parse_facts(call("scontrol", "--oneliner", "show", "job", job_id))
    except SlurmError:
        return {}


def parse_facts(text: str) -> dict[str, str]:
    """The ``key=value`` words of the first line that `scontrol -o show job` prints."""
    lines = text.splitlines()
    return dict(re.findall(r"(\w+)=(\S*)", lines[0])) if lines else {}


def hostnames(node_list: str) -> list[str]:
    """``n[1-3,5]`` → n1, n2, n3, n5."""
    return call("scontrol", "show", "hostnames", node_list).split() if node_list else []


def requeue(job_id: str) -> None:
    """Put a running job back into the queue; SLURM ends what is left of it.

    Raises:
        SlurmError: when the cluster does not allow it
    """
    call("scontrol", "requeue", job_id)


def cancel(job_ids: Iterable[str], signal: str | None = None) -> None:
    """End jobs, or send all their processes a signal, e.g. ``USR2``."""
    ids = list(job_ids)
    if ids:
        call("scancel", *([f"--signal={signal}"] if signal else []), *ids)


def test_only(script: Path) -> None:
    """Let SLURM check a script without submitting it.

    Raises:
        SlurmError: naming the option at fault and what the cluster offers instead
    """
    try:
        call("sbatch", "--test-only", str(script))
    except SlurmError as error:
        raise SlurmError(explain_refusal(str(error), script.read_text())) from None


def explain_refusal(message: str, script: str) -> str:
    """SLURM's refusal, with the option it is about and what would be accepted."""
    for pattern, option, offers in _REFUSALS:
        if re.search(pattern, message, re.IGNORECASE):
            found = re.search(rf"^#SBATCH --{option}=(.*)$", script, re.MULTILINE)
            given = f"--{option} {found.group(1)}: " if found else f"--{option}: "
            return f"{given}SLURM says: {_first(message)}{_offer(offers)}"
    return f"SLURM does not accept the job: {_first(message)}"


def _first(message: str) -> str:
    # What is wrong comes last, after "allocation failure:" or "Batch job submission failed:".
    return message.partition("; ")[0].rpartition("failure: ")[2].removeprefix("Batch job submission failed: ")


_NODES = ("sinfo", "-h", "-o", "%D × %c %m %G")
_REFUSALS: Sequence[tuple[str, str, tuple[str, Sequence[str]] | None]] = (
    ("invalid partition", "partition", ("partitions here", ("sinfo", "-h", "-o", "%R"))),
    ("invalid (account|.*account/partition)", "account", None),
    ("invalid qos", "qos", None),
    ("invalid feature", "constraint", ("features here", ("sinfo", "-h", "-o", "%f"))),
    ("node configuration is not available", "gpus-per-node", ("nodes × CPUs MB GPUs", _NODES)),
    ("more processors requested|node count", "nodes", ("nodes here", ("sinfo", "-h", "-o", "%R %D"))),
    ("time limit", "time", ("partition and limit", ("sinfo", "-h", "-o", "%R %l"))),
    ("invalid generic resource", "gpus-per-node", ("GPUs here", ("sinfo", "-h", "-o", "%G"))),
)  # fmt: skip
"""What SLURM's message contains → the option it is about → what to show as the alternative."""


def _offer(offers: tuple[str, Sequence[str]] | None) -> str:
    if offers is None:
        return ""
    label, command = offers
    try:
        found = sorted({" ".join(line.split()) for line in call(*command).splitlines() if line.strip()})
    except SlurmError:
        return ""
    return f" ({label}: {', '.join(found)})"


def longest_time(partition: str | None) -> tuple[str, str] | None:
    """Name and time limit of a partition, the default one for None; None if SLURM does not say."""
    rows = [line.split() for line in call("sinfo", "-h", "-o", "%P %l").splitlines()]
    for name, limit in (row for row in rows if len(row) == 2):
        if name.rstrip("*") == partition or (partition is None and name.endswith("*")):
            return name.rstrip("*"), limit
    return None
