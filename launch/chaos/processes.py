"""``python -m launch.chaos.processes RUN_DIR RANK SIGNAL [worker]``: send a signal to a rank, on its own machine.

Or to one of the processes that load its images. It prints the number of the process that got the signal; status 1
where there is none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def rank_process(run_dir: str, rank: int) -> int | None:
    """The number of the process of a rank, if this machine has it."""
    for number in _numbers():
        try:
            words = (PROC / f"{number}/cmdline").read_bytes().split(b"\0")
            if b"launch.job.rank" in words and run_dir.encode() in words and _rank_of(number) == rank:
                return number
        except OSError:
            continue
    return None


def children(parent: int) -> list[int]:
    """Processes that a process has started and that still live: of a rank, those that load images."""
    found = []
    for number in _numbers():
        try:
            # After the name, which is in brackets and may hold anything: the state, then the parent.
            state, of = (PROC / f"{number}/stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if int(of) == parent and state not in "ZX":
            found.append(number)
    return sorted(found)


def _rank_of(number: int) -> int | None:
    variables = (PROC / f"{number}/environ").read_bytes().split(b"\0")
    return next((int(text[5:]) for text in variables if text.startswith(b"RANK=")), None)


def _numbers() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def main(run_dir: str, rank: str, signal: str, which: str = "rank") -> int:
    """Send the signal; returns the status."""
    number = rank_process(run_dir, int(rank))
    if number is not None and which == "worker":
        number = next(iter(children(number)), None)
    if number is None:
        return 1
    os.kill(number, int(signal))
    print(number)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
