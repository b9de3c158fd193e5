"""The failure that came first. Every rank that fails makes others fail; the user wants the cause.

Ranks write ``rank-R.error.json`` when they can still report. Whoever started a rank knows its exit status also when it
could not: `cait train` has the statuses itself, a SLURM task leaves ``rank-R.exit.json``.
"""

import json
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cait_dist.tracking.metrics import attempt_metrics
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError, timestamp, write_json
from cait_dist.training.preempt import EXIT_SAVED
from cait_dist.training.watching.hang import first_hang

LOST_PEER = r"Connection (closed|reset) by peer|Broken pipe|ncclRemoteError|remote process exited|Timed out waiting"
"""What gloo and NCCL say when another rank is gone."""


@dataclass(frozen=True)
class Failure:
    """The first failure of an attempt.

    Attributes:
        rank: that failed.
        message: for the user.
        status: to exit with.
        signature: what two equal failures have in common; None where a rank only lost its peer, whose end may have
            been anything.
    """

    rank: int
    message: str
    status: int
    signature: str | None

    @property
    def explained(self) -> bool:
        """Whether the user can mend it: trying again would end the same way."""
        return self.status == 2


def note_exit(directory: Path, rank: int, status: int, host: str) -> None:
    """Write down how a rank ended, for those who cannot see its status."""
    write_json(
        directory / f"rank-{rank}.exit.json", {"rank": rank, "status": status, "host": host, "time": time.time()}
    )


def noted_exits(directory: Path) -> dict[int, int]:
    """The statuses of failed ranks, in the order in which they ended."""
    found = [json.loads(path.read_text()) for path in directory.glob("rank-*.exit.json")]
    return {entry["rank"]: entry["status"] for entry in sorted(found, key=lambda entry: entry["time"])}


def first_failure(states: dict[int, int], directory: Path) -> Failure:
    """Tell the cause from its consequences.

    A rank that a signal ended had no chance to report, and its peers report that they lost it. SIGABRT is the
    exception: with it NCCL's watchdog ends ranks that wait for a failed peer.

    Args:
        states: exit statuses by rank, as `subprocess` gives them, the earliest first where that is known
        directory: of the attempt
    """
    killed = [rank for rank, state in states.items() if state < 0 and state != -signal.SIGABRT]
    reports = sorted((json.loads(p.read_text()) for p in directory.glob("rank-*.error.json")), key=lambda r: r["time"])
    if found := _hang(killed, reports, directory):
        return found
    if killed or not reports:
        rank = killed[0] if killed else next(rank for rank, state in states.items() if state != EXIT_SAVED)
        death = _death(states[rank])
        # A rank may know what the user can mend, and not be able to write it down: the disk may be what is full.
        status = 2 if states[rank] == 2 else 1
        message = f"rank {rank} {death}; its output: {log_of(directory, rank)}"
        return Failure(rank, message, status, f"rank {rank} {death}")
    first = reports[0]
    rank, signature = first["rank"], _signature(first)
    if first["explained"]:
        return Failure(rank, f"rank {rank}: {first['message']}", states.get(rank, 2), signature)
    message = f"rank {rank} failed first:\n{first['traceback']}(its output: {log_of(directory, rank)})"
    return Failure(rank, message, 1, signature)


def _hang(killed: list[int], reports: list[dict[str, Any]], directory: Path) -> Failure | None:
    """The failure where ranks waited in vain for one that had neither died nor failed before."""
    hang = first_hang(directory)
    if hang is None or set(killed) - set(hang.blamed):
        return None
    if any(report["time"] < hang.time and _signature(report) is not None for report in reports):
        return None
    # The ranks that found it were still running, so there are stacks.
    message = f"{hang.message}; the stacks of the ranks that could tell: {directory}/rank-*.stacks.txt"
    return Failure(hang.blamed[0] if hang.blamed else 0, message, 1, hang.signature)


def note_failure(run: RunDirectory, number: int, failure: Failure) -> None:
    """Complete an attempt's entry with what rank 0 could not write, and with its first failure."""
    entry = next(a for a in run.read_record()["attempts"] if a["number"] == number)
    rows = attempt_metrics(run.attempt(number))
    run.update_attempt(
        number,
        outcome="failed",
        ended=entry.get("ended", timestamp()),
        step=rows[-1]["step"] if rows else entry["resumed_from"] or 0,
        failure={
            "rank": failure.rank,
            "message": failure.message,
            "signature": failure.signature,
            "explained": failure.explained,
        },
    )


def tell_mlflow(run: RunDirectory) -> None:
    """A run whose rank 0 died would be shown as running for ever."""
    if not run.mirror.exists():
        return
    from cait_dist.tracking.sync import sync_to_mlflow  # noqa: PLC0415 - few runs end like this

    try:
        sync_to_mlflow(run.path)
    except RunDirectoryError as error:
        print(f"MLflow does not know that the run has failed: {error}", flush=True)


def log_of(directory: Path, rank: int) -> Path:
    """Where a rank's output is."""
    return directory / f"rank-{rank}.log"


def _death(status: int) -> str:
    if status >= 0:
        return f"ended with status {status} and without an explanation"
    name = signal.Signals(-status).name
    hint = " — often the system ran out of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _signature(report: dict[str, Any]) -> str | None:
    """The last line of the traceback without numbers: addresses, ports and times differ, the error is the same."""
    if re.search(LOST_PEER, report["traceback"]):
        return None
    lines = [line for line in report["traceback"].strip().splitlines() if line and not line.startswith(" ")]
    return re.sub(r"0x[0-9a-f]+|\d+", "#", lines[-1] if lines else report["message"])[:300]
