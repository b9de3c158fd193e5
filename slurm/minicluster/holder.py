"""Process 1 of a cluster, and its head: ``python -m slurm.minicluster.holder FOLDER``, run in namespaces of its own.

It starts everything and then only buries the dead. Its end is the end of the cluster. Its standard input tells it
whether it is still wanted: it closes when the process that started the cluster ends, however that happens.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from .accounting import add_accounts, start_database
from .conf_files import CONTROLLER_PORT, DATABASE_PORT, DBD_PORT, FAKE_GPU, MUNGE_SOCKET
from .errors import MiniClusterError
from .node import BRIDGE, launch_slurmd, make_node, wait_for
from .programs import daemon_environment, start_daemon
from .settings import HEAD, HEAD_ADDRESS, INSIDE, READY, SLURM_FOLDER, STAY, Settings


def main(folder: str) -> None:
    """Start the cluster that is described in a folder, and keep it."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    _mount(Path(folder))
    settings = Settings.load(INSIDE)
    try:
        _make_head(settings)
        _start_daemons(settings)
    except MiniClusterError as error:
        sys.exit(str(error))
    (INSIDE / READY).touch()
    _bury_the_dead()


def _end_with_starter() -> None:
    if os.read(0, 1) != STAY:
        os._exit(1)


def _mount(folder: Path) -> None:
    _run("mount", "--bind", str(folder), str(INSIDE))
    _run("mount", "--bind", str(INSIDE / "etc"), str(SLURM_FOLDER))
    _run("mount", "--bind", str(INSIDE / "etc/hosts"), "/etc/hosts")
    # In memory: the database waits for the disk a hundred times while it makes its tables.
    _run("mount", "-t", "tmpfs", "tmpfs", str(INSIDE / "mysql"))
    os.chdir("/")


def _make_head(settings: Settings) -> None:
    for number in range(settings.gpus):
        Path(f"{FAKE_GPU}{number}").touch()
        _run("mount", "--bind", "/dev/null", f"{FAKE_GPU}{number}")
    _run("hostname", HEAD)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "addr", "add", f"{HEAD_ADDRESS}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    # sacctmgr and slurmdbd write in small pieces, each of which would wait 40 ms for a delayed acknowledgement.
    _run(*f"ip route replace table local local {HEAD_ADDRESS} dev {BRIDGE} quickack 1".split())


def _start_daemons(settings: Settings) -> None:
    """Start everything in the order of who needs whom; making the nodes fills the time that the database takes."""
    munged = start_daemon("munged", settings.as_user(_munged()))
    database = start_database(settings) if settings.accounting else None
    for node in settings.node_names:
        make_node(settings, node)
    wait_for(MUNGE_SOCKET.exists, "munged", munged)
    if database is not None:
        _wait_for_port("127.0.0.1", DATABASE_PORT, "the database", database)
        slurmdbd = start_daemon("slurmdbd", settings.as_user(["slurmdbd", "-D"]))
        _wait_for_port(HEAD_ADDRESS, DBD_PORT, "slurmdbd", slurmdbd)
        if settings.enforce:
            add_accounts(settings)
    slurmctld = start_daemon("slurmctld", settings.as_user(["slurmctld", "-D"]))
    _wait_for_port(HEAD_ADDRESS, CONTROLLER_PORT, "slurmctld", slurmctld)
    for node in settings.node_names:
        launch_slurmd(settings, node)


def _munged() -> list[str]:
    return [
        "munged",
        "--foreground",
        "--force",
        f"--key-file={INSIDE}/munge/key",
        f"--seed-file={INSIDE}/munge/seed",
        f"--socket={MUNGE_SOCKET}",
        f"--pid-file={INSIDE}/run/munged.pid",
        f"--log-file={INSIDE}/log/munged.log",
        "--num-threads=4",
    ]


def _wait_for_port(address: str, port: int, what: str, process: subprocess.Popen[bytes]) -> None:
    def listens() -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex((address, port)) == 0

    wait_for(listens, f"{what} (see log/{Path(what).name.split()[-1]}.log)", process)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=daemon_environment())


def _bury_the_dead() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
