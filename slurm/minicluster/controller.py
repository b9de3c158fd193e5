"""Slurm's controller, which may be lost like a node: ``python -m slurm.minicluster.controller ACTION``, in the head.

While it is away nothing is submitted, ended or answered; what jobs run goes on. Started again, it knows them all.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from .conf_files import CONTROLLER_PORT
from .errors import MiniClusterError
from .programs import Daemon
from .settings import HEAD_ADDRESS, INSIDE, Settings

_NUMBER = INSIDE / "run" / "slurmctld.pid"


def start_controller(settings: Settings) -> None:
    """Start the controller, and wait until it listens."""
    if _process() is not None:
        raise MiniClusterError("the controller runs already")
    slurmctld = Daemon.start("slurmctld", settings.as_user(["slurmctld", "-D"]))
    slurmctld.wait_for(lambda: listens(HEAD_ADDRESS, CONTROLLER_PORT))


def stop_controller(settings: Settings) -> None:
    """Kill the controller without warning."""
    if (number := _process()) is None:
        raise MiniClusterError("the controller does not run")
    os.kill(number, signal.SIGKILL)
    while _process() is not None:
        time.sleep(0.02)


def listens(address: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as attempt:
        return attempt.connect_ex((address, port)) == 0


def _process() -> int | None:
    # The number in the file may be another program's by now.
    try:
        number = int(_NUMBER.read_text())
        return number if Path(f"/proc/{number}/comm").read_text().strip() == "slurmctld" else None
    except (OSError, ValueError):
        return None


ACTIONS = {"start_controller": start_controller, "stop_controller": stop_controller}


def main(action: str) -> None:
    """Do one thing to the controller."""
    # Not to be interrupted halfway.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    try:
        ACTIONS[action](Settings.load(INSIDE))
    except MiniClusterError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
