"""Starts a test's own program on several ranks, as `cait train` starts the trainer."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launch.local import rank_environment

ROOT = Path(__file__).resolve().parents[1]


def run_on_ranks(program: Path, processes: int, arguments: dict[str, Any], out: Path, timeout: float = 600) -> Any:
    """Run ``program ARGUMENTS_JSON OUT`` on every rank and return what rank 0 wrote to OUT as JSON.

    All ranks are killed when one fails or the time is up; the output of the one that failed first is shown.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        ranks = [_start(program, rank, processes, arguments, out, listener) for rank in range(processes)]
    try:
        first = _wait(ranks, time.monotonic() + timeout)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert first is None, f"rank {first} of {program.name} failed:\n{_log(out, first or 0).read_text()[-6000:]}"
    return json.loads(out.read_text())


def _wait(ranks: "list[subprocess.Popen[bytes]]", deadline: float) -> int | None:
    """The first rank that fails, or None when all are done."""
    while time.monotonic() < deadline:
        states = [process.poll() for process in ranks]
        for rank, state in enumerate(states):
            if state not in (None, 0):
                return rank
        if all(state == 0 for state in states):
            return None
        time.sleep(0.05)
    return next(rank for rank, process in enumerate(ranks) if process.poll() is None)


def _log(out: Path, rank: int) -> Path:
    return out.with_suffix(f".rank-{rank}.log")


def _start(
    program: Path, rank: int, processes: int, arguments: dict[str, Any], out: Path, listener: socket.socket
) -> "subprocess.Popen[bytes]":
    environment = rank_environment(rank, processes, listener)
    with _log(out, rank).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(program), json.dumps(arguments), str(out)],
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(listener.fileno(),) if rank == 0 else (),
        )
