"""An MLflow server on the head of the small cluster, which can be killed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from slurm.minicluster.settings import HEAD

from .errors import ChaosError
from .ground import Ground, cait

PORT = 5000
MLFLOW_URI = f"http://{HEAD}:{PORT}"
_GROUP = "/var/spool/run/chaos-mlflow.group"
"""Number of its process group, in the cluster's own folder."""
_LISTENS = f"import socket; socket.create_connection(('{HEAD}', {PORT}), 1)"
START_SECONDS = 120


def start_server(ground: Ground, runs_dir: Path) -> None:
    """Serve; returns when it answers.

    Raises:
        ChaosError: if it does not
    """
    assert ground.mini is not None
    serve = cait("track", "serve", runs_dir, "--host", "0.0.0.0", "--port", str(PORT), "--allowed-hosts", HEAD)
    command = ["setsid", "sh", "-c", f'echo $$ > {_GROUP}; exec "$@"', "sh", *serve]
    log = (ground.mini.folder / "log" / "mlflow.log").open("ab")
    with log:
        subprocess.Popen(
            ground.mini.command(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while ground.run([cait()[0].removesuffix("cait") + "python", "-c", _LISTENS]).returncode:
        if time.monotonic() > deadline:
            raise ChaosError(f"the MLflow server does not answer within {START_SECONDS} s; see {log.name}")
        time.sleep(0.5)


def kill_server(ground: Ground) -> None:
    """End it and its processes without warning."""
    ground.run(["sh", "-c", f"kill -9 -- -$(cat {_GROUP})"])
