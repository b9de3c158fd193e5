"""A cluster, seen from outside: start it, run commands in it, break it, end it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import MiniClusterError
from .folder import clear, locked, prepare
from .namespaces import Process, entering
from .programs import python_module, why_not
from .settings import STAY, Settings, process_file
from .starting import choose_settings, end_holder, start_holder, wait_for_process_one, wait_until_ready

_HOLDER = "holder"


class MiniCluster:
    """A running cluster in a folder. Make one with ``up``, or find one with ``existing``.

    As a context manager it ends with the block.
    """

    def __init__(self, folder: Path, settings: Settings, holder: Process) -> None:
        self.folder = folder
        self.settings = settings
        self._holder = holder
        self._unshare: subprocess.Popen[bytes] | None = None

    @classmethod
    def up(
        cls,
        folder: Path,
        nodes: int = 4,
        cpus: int = 16,
        memory: int = 64000,
        gpus: int = 8,
        accounting: str = "auto",
        private: Sequence[str] = ("/dev/shm",),
        conf: Mapping[str, str] | None = None,
        wait: float = 60,
        enforce: bool = True,
        stay: bool = True,
        disks: Mapping[str, int] | None = None,
    ) -> MiniCluster:
        """Start a cluster and wait until all its nodes are idle.

        Whatever ends this call before that (an error, Ctrl-C, a kill) ends the cluster too.

        Args:
            folder: for its configuration, logs and state; new, empty, or a former cluster's.
            nodes: how many.
            cpus: of each node, pretended.
            memory: of each node in MB, pretended.
            gpus: of each node, pretended.
            accounting: ``mariadb`` (``sacct`` answers), ``none``, or ``auto``: a database where one is installed.
            private: folders that each node has for itself.
            conf: lines of slurm.conf that win over the cluster's own.
            wait: seconds.
            enforce: with accounting, refuse accounts and QOS other than ``team``, ``normal`` and ``lowq``.
            stay: outlive this process; otherwise the cluster ends with it, even if it is killed.
            disks: folders that lie on a disk of their own in the cluster, of so many MB; see ``seen``.

        Raises:
            MiniClusterError: with the reason.
        """
        if reason := why_not():
            raise MiniClusterError(reason)
        settings = choose_settings(nodes, cpus, memory, gpus, accounting, enforce, private, conf, disks)
        folder = folder.absolute()
        with locked(folder):
            if _find(folder):
                raise MiniClusterError(f"a cluster is up in {folder} already: end it first (cait cluster down)")
            prepare(folder, settings)
            return cls._start(folder, settings, wait, stay)

    @classmethod
    def existing(cls, folder: Path) -> MiniCluster:
        """The cluster that is up in a folder, whoever started it.

        Raises:
            MiniClusterError: if there is none.
        """
        folder = folder.absolute()
        if (holder := _find(folder)) is None:
            raise MiniClusterError(f"no cluster is up in {folder}: start one with `cait cluster up`")
        return cls(folder, Settings.load(folder), holder)

    @classmethod
    def _start(cls, folder: Path, settings: Settings, wait: float, stay: bool) -> MiniCluster:
        deadline = time.monotonic() + wait
        unshare = start_holder(folder, settings)
        try:
            holder = wait_for_process_one(unshare, folder, deadline)
            holder.save(folder / _HOLDER)
            cluster = cls(folder, settings, holder)
            cluster._unshare = unshare
            wait_until_ready(unshare, folder, deadline)
            cluster._wait_until_idle(deadline)
        except BaseException:
            end_holder(unshare)
            clear(folder)
            raise
        assert unshare.stdin is not None
        if stay:
            unshare.stdin.write(STAY)
            unshare.stdin.close()
        return cluster

    def _wait_until_idle(self, deadline: float) -> None:
        states: list[str] = []
        while len(states) < self.settings.nodes or set(states) != {"idle"}:
            if time.monotonic() > deadline:
                raise MiniClusterError(f"not all nodes are idle in time, but {states}; see {self.folder}/log")
            time.sleep(0.05)
            answer = self.run(["sinfo", "-hN", "-p", "main", "-o", "%T"], capture_output=True, text=True)
            states = answer.stdout.split()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the compute nodes."""
        return self.settings.node_names

    def run(self, command: Sequence[str], node: str | None = None, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on the head, where one submits, or on a node; the options are those of ``subprocess.run``."""
        options.setdefault("check", False)
        return subprocess.run(self.command(command, node), **options)  # noqa: PLW1510

    def command(self, command: Sequence[str], node: str | None = None) -> list[str]:
        """The words that run a command on the head or on a node, as the user and in the folder where they are used.

        Variables of a surrounding Slurm job are left out: they would point the command at another cluster.
        """
        foreign = [word for name in os.environ if name.startswith("SLURM_") for word in ("-u", name)]
        inner = self.settings.as_user(["env", *foreign, *command])
        if node is not None:
            inner = entering(self._pid_of(node), inner)
        return self._enter(inner)

    def kill_node(self, node: str) -> None:
        """Switch a node off without warning."""
        self._order("kill_node", node)

    def start_node(self, node: str) -> None:
        """Switch a node on again."""
        self._order("start_node", node)

    def stop_slurmd(self, node: str) -> None:
        """Kill a node's slurmd; what jobs run there goes on."""
        self._order("stop_slurmd", node)

    def start_slurmd(self, node: str) -> None:
        """Start a node's slurmd again."""
        self._order("start_slurmd", node)

    def stop_controller(self) -> None:
        """Kill Slurm's controller; what jobs run goes on."""
        self._order_head("stop_controller")

    def start_controller(self) -> None:
        """Start Slurm's controller again."""
        self._order_head("start_controller")

    def seen(self, path: Path) -> Path:
        """A path of the cluster's, which may lie on a disk that it alone has, as a process outside must write it."""
        return Path(f"/proc/{self._holder.pid}/root{path.absolute()}")

    def cut(self, node: str) -> None:
        """Pull a node's network cable."""
        self._order("cut", node)

    def heal(self, node: str) -> None:
        """Plug a node's network cable in again."""
        self._order("heal", node)

    def down(self) -> None:
        """End the cluster: every process, interface and mount. Its logs stay. A second call does nothing."""
        if not self._holder.kill():
            raise MiniClusterError(f"the cluster in {self.folder} does not end, though it was killed")
        if self._unshare is not None:
            self._unshare.communicate()
        if _find(self.folder) is None:
            clear(self.folder)

    def __enter__(self) -> MiniCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _order(self, action: str, node: str) -> None:
        self._check_name(node)
        self._carry_out(python_module("node", action, node), f"{action.replace('_', '-')} {node}")

    def _order_head(self, action: str) -> None:
        self._carry_out(python_module("controller", action), action.replace("_", "-"))

    def _carry_out(self, command: list[str], what: str) -> None:
        result = subprocess.run(
            self._enter(command), capture_output=True, text=True, check=False, start_new_session=True
        )
        if result.returncode:
            raise MiniClusterError(f"{what}: {result.stderr.strip()}")

    def _enter(self, command: list[str]) -> list[str]:
        if not self._holder.lives:
            raise MiniClusterError(f"the cluster in {self.folder} has ended")
        return entering(self._holder.pid, command, self.settings.in_user_namespace)

    def _pid_of(self, node: str) -> int:
        self._check_name(node)
        try:
            # The number that the head knows its process 1 by; outside it has another.
            return int(process_file(self.folder, node).read_text().split()[0])
        except OSError:
            raise MiniClusterError(f"{node} is off: start it first (start-node {node})") from None

    def _check_name(self, node: str) -> None:
        if node not in self.nodes:
            raise MiniClusterError(f"there is no node {node}; there are {self.nodes[0]} to {self.nodes[-1]}")


def _find(folder: Path) -> Process | None:
    return Process.load(folder / _HOLDER)
