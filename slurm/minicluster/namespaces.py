"""Commands that make and enter sets of Linux namespaces, and the processes that keep such sets alive."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


def new_namespaces(command: list[str], user_namespace: bool) -> list[str]:
    """Run a command as process 1 of its own network, host name, mounts and processes.

    With ``--kill-child`` the two processes, ``unshare`` and process 1, are one in death.
    """
    user = ["--user", "--map-root-user"] if user_namespace else []
    kinds = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *user, *kinds, *command]


def entering(pid: int, command: list[str], user_namespace: bool = False) -> list[str]:
    """Run a command in the namespaces of a process 1, in the folder where it is called."""
    user = ["-U", "--preserve-credentials"] if user_namespace else []
    return ["nsenter", "-t", str(pid), *user, "-n", "-u", "-m", "-p", "--wd=.", *command]


def as_user(command: list[str], uid: int, gid: int) -> list[str]:
    """Run a command as an ordinary user, from within a user namespace where that user passes for root.

    Making networks and mounts takes that pretended root; but Slurm's daemons, if they think they are root, drop
    groups, which is forbidden there. A second namespace in the first gives the user their own number back.
    """
    return ["unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", *command] if uid else command


@dataclass(frozen=True)
class Process:
    """A process that is still the same one: a number alone may have passed to another."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process of this number, if there is one."""
        fields = _stat(pid)
        return cls(pid, fields[19]) if fields and fields[0] not in "ZX" else None

    @classmethod
    def first_child_of(cls, pid: int) -> Process | None:
        """The process 1 of an ``unshare --fork``, once it exists."""
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return None
        return cls.of(int(children[0])) if children else None

    @classmethod
    def load(cls, path: Path) -> Process | None:
        """The process that was written to a file, if it still lives."""
        try:
            pid, started = path.read_text().split()
        except (OSError, ValueError):
            return None
        process = cls(int(pid), started)
        return process if process.lives else None

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(f"{self.pid} {self.started}\n")

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return Process.of(self.pid) == self

    def kill(self, patience: float = 15) -> bool:
        """End it and everything in its namespaces; whether that was over in time."""
        if self.lives:
            os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + patience
        while self.lives and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.lives


def _stat(pid: int) -> list[str]:
    # What follows the name, which is in brackets and may hold anything: state, parent, …, and 19 on, the start time.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
