"""Starts a cluster's holder, from outside."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import MiniClusterError
from .folder import last_words
from .namespaces import Process, new_namespaces
from .programs import NEEDED_FOR_ACCOUNTING, daemon_environment, missing_programs, python_module
from .settings import READY, Settings


def choose_settings(
    nodes: int,
    cpus: int,
    memory: int,
    gpus: int,
    accounting: str,
    enforce: bool,
    private: Sequence[str],
    conf: Mapping[str, str] | None,
    disks: Mapping[str, int] | None,
) -> Settings:
    """A cluster as asked for, for whoever asks, with accounting where it is wanted and possible.

    Raises:
        MiniClusterError: if it is impossible.
    """
    if accounting not in ("auto", "none", "mariadb"):
        raise MiniClusterError(f"accounting: {accounting} is not one of auto, none, mariadb")
    missing = missing_programs(NEEDED_FOR_ACCOUNTING) if accounting != "none" else None
    if accounting == "mariadb" and missing:
        raise MiniClusterError(f"accounting: {missing}; or go without (none)")
    return Settings(
        nodes=nodes,
        cpus=cpus,
        memory=memory,
        gpus=gpus,
        accounting=accounting != "none" and missing is None,
        enforce=enforce,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        uid=os.geteuid(),
        gid=os.getegid(),
        private=tuple(private),
        disks=dict(disks or {}),
        conf=dict(conf or {}),
    )


def start_holder(folder: Path, settings: Settings) -> subprocess.Popen[bytes]:
    """Start the cluster's process 1 by way of ``unshare``, which is what this returns."""
    command = new_namespaces(python_module("holder", str(folder)), settings.in_user_namespace)
    with (folder / "log/holder.log").open("ab") as log:
        # A session of its own: a Ctrl-C is for the command that starts the cluster, which then ends it in good order.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=daemon_environment(),
            cwd="/",
            start_new_session=True,
        )


def wait_for_process_one(unshare: subprocess.Popen[bytes], folder: Path, deadline: float) -> Process:
    """The cluster's process 1, as soon as ``unshare`` has made it."""
    while (process := Process.first_child_of(unshare.pid)) is None:
        if unshare.poll() is not None or time.monotonic() > deadline:
            raise MiniClusterError(f"the cluster did not start: {last_words(folder)}")
        time.sleep(0.005)
    return process


def wait_until_ready(unshare: subprocess.Popen[bytes], folder: Path, deadline: float) -> None:
    """Wait until all daemons have been started.

    Raises:
        MiniClusterError: if that takes too long or fails, with the holder's reason.
    """
    while not (folder / READY).exists():
        if unshare.poll() is not None:
            raise MiniClusterError(f"the cluster did not start: {last_words(folder)}")
        if time.monotonic() > deadline:
            raise MiniClusterError(f"the cluster did not start in time; see {folder}/log")
        time.sleep(0.02)


def end_holder(unshare: subprocess.Popen[bytes]) -> None:
    """End what has been started so far."""
    if holder := Process.first_child_of(unshare.pid):
        holder.kill()
    unshare.kill()
    unshare.communicate()
