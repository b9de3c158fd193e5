"""Which programs a cluster needs, how its daemons are started, and whether this machine can have one at all."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import MiniClusterError
from .namespaces import as_user, new_namespaces
from .settings import INSIDE, SLURM_FOLDER

SYSTEM_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Daemons lie in folders that an ordinary user's PATH lacks."""
NEEDED = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sinfo": "slurm-wlm",
    "munged": "munge",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "bash": "bash",
}
"""Programs, and Debian's and Ubuntu's packages for them."""
NEEDED_FOR_ACCOUNTING = {
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-wlm",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
_TRY = "ip link add br0 type bridge && ip link add one type veth peer name two && mount -t tmpfs none /tmp"


def why_not() -> str | None:
    """Why no cluster can be made on this machine, with the remedy; None if it can."""
    if not sys.platform.startswith("linux"):
        return "a small Slurm cluster needs Linux"
    if missing := missing_programs(NEEDED):
        return missing
    for folder in (SLURM_FOLDER, INSIDE):
        if not folder.is_dir():
            return f"there is no folder {folder}, on which the cluster would mount its own: make it (it may be empty)"
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"user number {os.geteuid()} has no name on this machine (/etc/passwd), and Slurm needs one"
    return _why_no_namespaces()


def missing_programs(needed: dict[str, str]) -> str | None:
    """Which of these are not installed and where to get them, in words; None if all are here."""
    missing = [program for program in needed if not find(program)]
    if not missing:
        return None
    packages = sorted({needed[program] for program in missing})
    return f"{', '.join(missing)} not found: install (Debian, Ubuntu) {' '.join(packages)}"


def find(program: str) -> str | None:
    """Where a program is, looking where daemons lie too."""
    return shutil.which(program, path=search_path())


def search_path() -> str:
    """The user's PATH and then the system's."""
    return os.pathsep.join(part for part in (os.environ.get("PATH", ""), SYSTEM_FOLDERS) if part)


def _why_no_namespaces() -> str | None:
    """Try it: no list of kernel settings, capabilities and container rules would ever be complete."""
    uid, gid = os.geteuid(), os.getegid()
    # Daemons of an ordinary user run one user namespace deeper: that must be allowed too.
    attempts = [new_namespaces(["sh", "-c", _TRY], user_namespace=uid != 0)]
    attempts += [new_namespaces(as_user(["true"], uid, gid), user_namespace=True)] if uid else []
    for command in attempts:
        result = subprocess.run(command, env=daemon_environment(), capture_output=True, text=True, check=False)
        if result.returncode:
            words = " ".join(result.stderr.split()) or f"exit status {result.returncode}"
            who = "even root" if uid == 0 else "an ordinary user"
            return (
                f"{who} may not make the namespaces of a cluster here ({words}): a container, or the kernel's "
                "settings user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns, may forbid it"
            )
    return None


def daemon_environment() -> dict[str, str]:
    """Nothing of the user's environment: a job gets its variables from who submits it, never from the daemons."""
    return {"PATH": search_path(), "LC_ALL": "C.UTF-8"}


def python_module(name: str, *arguments: str) -> list[str]:
    """Run a module of this package, wherever one is, with this Python and nothing of the user's environment."""
    package_root = Path(__file__).resolve().parents[2]
    variables = {**daemon_environment(), "PYTHONPATH": str(package_root), "PYTHONDONTWRITEBYTECODE": "1"}
    settings = [f"{key}={value}" for key, value in variables.items()]
    return ["env", "-i", *settings, sys.executable, "-m", f"{__package__}.{name}", *arguments]


@dataclass(frozen=True)
class Daemon:
    """A process of the cluster, seen from inside; what it says goes to ``log/NAME.out``."""

    name: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, command: list[str]) -> Daemon:
        """Start one."""
        with _log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=daemon_environment(),
                start_new_session=True,
            )
        return cls(name, process)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until it has brought something about.

        Raises:
            MiniClusterError: if it ends before, with its last words, or takes a minute.
        """
        deadline = time.monotonic() + 60
        while not condition():
            if (status := self.process.poll()) is not None:
                raise MiniClusterError(f"{self.name} ended with status {status}: {_reason(_log(self.name))}")
            if time.monotonic() > deadline:
                raise MiniClusterError(f"{self.name} does not get ready")
            time.sleep(0.02)


def _log(name: str) -> Path:
    return INSIDE / "log" / f"{name}.out"


def _reason(log: Path) -> str:
    """The last two lines that speak of an error: Slurm's daemons first say what, then that it is fatal."""
    lines = log.read_text(errors="replace").split("\n")
    errors = [line for line in lines if "fatal:" in line or "error:" in line.lower()]
    return "; ".join(line.strip() for line in (errors or lines)[-2:] if line.strip()) or "it said nothing"
