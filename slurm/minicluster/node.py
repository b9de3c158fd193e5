"""Compute nodes, each a set of namespaces within the head's: ``python -m slurm.minicluster.node ACTION NODE``.

Runs inside the head. A node is a process 1 that does nothing, and a cable (a pair of network interfaces) to the head's
bridge. Killing its process 1 is what a power cut is to a machine.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .errors import MiniClusterError
from .namespaces import Process, entering, new_namespaces
from .programs import Daemon, daemon_environment
from .settings import HEAD_ADDRESS, INSIDE, Settings, address_of, hardware_address_of, process_file

BRIDGE = "br0"
_DO_NOTHING = "while sleep 86400; do :; done"
"""Bash, while it waits, also buries orphans, as a process 1 must."""


def start_node(settings: Settings, node: str) -> None:
    """Switch a node on, and its slurmd."""
    if process_one(node):
        raise MiniClusterError(f"{node} runs already")
    make_node(settings, node)
    start_slurmd(settings, node)


def make_node(settings: Settings, node: str) -> None:
    """Make a node's namespaces and connect them, without slurmd."""
    (INSIDE / "nodes" / node).mkdir(exist_ok=True)
    ready = INSIDE / "run" / f"{node}.ready"
    ready.unlink(missing_ok=True)
    mounts = [f"mount -t tmpfs -o mode=1777 tmpfs {shlex.quote(folder)}" for folder in settings.private]
    steps = ["set -e", f"hostname {node}", "ip link set lo up", *mounts, f": > {ready}", "set +e", _DO_NOTHING]
    unshare = Daemon.start(f"node.{node}", new_namespaces(["bash", "-c", "; ".join(steps)], user_namespace=False))
    unshare.wait_for(ready.exists)
    process = Process.first_child_of(unshare.process.pid)
    assert process is not None, f"{node} ended at once"
    process.save(process_file(INSIDE, node))
    _connect(settings, node, process)


def _connect(settings: Settings, node: str, process: Process) -> None:
    _ip(f"link del {_cable(node)}", check=False)  # the kernel may still be clearing away the last one
    _ip(
        f"link add {_cable(node)} type veth peer name eth0 netns {process.pid}",
        f"link set {_cable(node)} master {BRIDGE} up",
    )
    _ip(
        f"link set eth0 address {hardware_address_of(node)}",
        f"addr add {address_of(node)}/24 dev eth0",
        "link set eth0 up",
        *_neighbours(settings, node),
        within=process,
    )


def _neighbours(settings: Settings, node: str) -> list[str]:
    """Orders that tell a node where everybody is.

    The kernel keeps what it learns by asking in one table for the whole machine, of 1,024 entries: about what 32 nodes
    need that all talk to each other, and "no route to host" is what one more gets. What it is told is not counted.
    """
    others: dict[str, str | None] = {address_of(other): other for other in settings.node_names if other != node}
    known = {HEAD_ADDRESS: None, **others}
    return [
        f"neigh replace {address} lladdr {hardware_address_of(name)} dev eth0 nud permanent"
        for address, name in known.items()
    ]


def start_slurmd(settings: Settings, node: str) -> None:
    """Start the slurmd of a node that has none, and wait until it runs."""
    process = _running(node)
    if _slurmd_runs(process, node):
        raise MiniClusterError(f"the slurmd of {node} runs already")
    launch_slurmd(settings, node).wait_for(lambda: _slurmd_runs(process, node))


def launch_slurmd(settings: Settings, node: str) -> Daemon:
    """Start a node's slurmd, which knows from the host name which node it is."""
    return Daemon.start(f"node.{node}", entering(_running(node).pid, settings.as_user(["slurmd", "-D"])))


def kill_node(settings: Settings, node: str) -> None:
    """Switch a node off without warning: all its processes end at once."""
    if not _running(node).kill():
        raise MiniClusterError(f"{node} does not end, though it was killed")
    process_file(INSIDE, node).unlink()


def stop_slurmd(settings: Settings, node: str) -> None:
    """Kill a node's slurmd alone; what jobs run there goes on."""
    process = _running(node)
    if not _slurmd_runs(process, node):
        raise MiniClusterError(f"the slurmd of {node} does not run")
    _in_shell(process, f"kill -9 $(cat {_slurmd_file(node)})")
    while _slurmd_runs(process, node):
        time.sleep(0.02)


def cut(settings: Settings, node: str) -> None:
    """Pull a node's network cable."""
    _running(node)
    _ip(f"link set {_cable(node)} down")


def heal(settings: Settings, node: str) -> None:
    """Plug the cable in again, and have slurmd register: Slurm itself would look for the node only within a minute."""
    process = _running(node)
    _ip(f"link set {_cable(node)} up")
    if _slurmd_runs(process, node):
        _in_shell(process, f"kill -HUP $(cat {_slurmd_file(node)})")


def process_one(node: str) -> Process | None:
    """What keeps a node alive, if it is on."""
    return Process.load(process_file(INSIDE, node))


def _running(node: str) -> Process:
    if (process := process_one(node)) is None:
        raise MiniClusterError(f"{node} is off")
    return process


def _slurmd_runs(process: Process, node: str) -> bool:
    # The number in the file is the node's own, so it is looked up there; and it may be another program's by now.
    return _in_shell(process, f'grep -qx slurmd "/proc/$(cat {_slurmd_file(node)})/comm"', check=False) == 0


def _in_shell(process: Process, script: str, check: bool = True) -> int:
    command = entering(process.pid, ["sh", "-c", script])
    quiet = None if check else subprocess.DEVNULL
    return subprocess.run(command, env=daemon_environment(), check=check, stderr=quiet).returncode


def _ip(*orders: str, within: Process | None = None, check: bool = True) -> None:
    command = ["ip", "-batch", "-"]
    subprocess.run(
        entering(within.pid, command) if within else command,
        input="\n".join(orders) + "\n",
        text=True,
        check=check,
        env=daemon_environment(),
        stderr=None if check else subprocess.DEVNULL,
    )


def _cable(node: str) -> str:
    return f"to-{node}"


def _slurmd_file(node: str) -> Path:
    return INSIDE / "run" / f"slurmd.{node}.pid"


ACTIONS: dict[str, Callable[[Settings, str], None]] = {
    "start_node": start_node,
    "kill_node": kill_node,
    "start_slurmd": start_slurmd,
    "stop_slurmd": stop_slurmd,
    "cut": cut,
    "heal": heal,
}


def main(action: str, node: str) -> None:
    """Do one thing to one node."""
    # Not to be interrupted halfway: a Ctrl-C would leave a node without a cable.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    try:
        ACTIONS[action](Settings.load(INSIDE), node)
    except MiniClusterError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
