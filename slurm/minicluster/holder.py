"""Process 1 of a cluster, and its head: ``python -m slurm.minicluster.holder FOLDER``, run in namespaces of its own.

It starts everything and then only buries the dead. Its end is the end of the cluster. Its standard input tells it
whether it is still wanted: it closes when the process that started the cluster ends, however that happens.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from .accounting import add_accounts, start_database
from .conf_files import DATABASE_PORT, DBD_PORT, FAKE_GPU, MUNGE_SOCKET
from .controller import listens, start_controller
from .errors import MiniClusterError
from .node import BRIDGE, launch_slurmd, make_node
from .programs import Daemon, daemon_environment
from .settings import HEAD, HEAD_ADDRESS, INSIDE, READY, SLURM_FOLDER, STAY, Settings, hardware_address_of


def main(folder: str) -> None:
    """Start the cluster that is described in a folder, and keep it."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    _mount(Path(folder))
    settings = Settings.load(INSIDE)
    for place, megabytes in settings.disks.items():
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=1777", "tmpfs", place)
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
    _run("ip", "link", "add", BRIDGE, "address", hardware_address_of(None), "type", "bridge")
    _run("ip", "addr", "add", f"{HEAD_ADDRESS}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    # sacctmgr and slurmdbd write in small pieces, each of which would wait 40 ms for a delayed acknowledgement.
    _run(*f"ip route replace table local local {HEAD_ADDRESS} dev {BRIDGE} quickack 1".split())


def _start_daemons(settings: Settings) -> None:
    """Start everything in the order of who needs whom; making the nodes fills the time that the database takes."""
    munged = Daemon.start("munged", settings.as_user(_munged()))
    database = start_database(settings) if settings.accounting else None
    for node in settings.node_names:
        make_node(settings, node)
    munged.wait_for(MUNGE_SOCKET.exists)
    if database is not None:
        database.wait_for(lambda: listens("127.0.0.1", DATABASE_PORT))
        slurmdbd = Daemon.start("slurmdbd", settings.as_user(["slurmdbd", "-D"]))
        slurmdbd.wait_for(lambda: listens(HEAD_ADDRESS, DBD_PORT))
        if settings.enforce:
            add_accounts(settings)
    start_controller(settings)
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
