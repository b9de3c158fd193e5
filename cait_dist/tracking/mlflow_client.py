"""MLflow's client, bounded in time; and one writer at a time for a database file.

A server takes care of many writers itself. An SQLite file beside the runs does not: the members of a sweep, each on its
own node, would break it when it is fresh and find it locked later. So whoever writes to a file holds ``.mlflow.lock``
beside it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SQLITE = "sqlite:///"
_BOUNDED = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def bound_client(uri: str) -> Any:
    """A client that gives up on a silent server after seconds, not hours."""
    for name, value in _BOUNDED.items():
        os.environ.setdefault(name, value)
    # Set by a user for another program, it would make every process of this job write into one foreign run.
    os.environ.pop("MLFLOW_RUN_ID", None)
    from mlflow import MlflowClient  # noqa: PLC0415

    # Of a fresh database it would tell every migration.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(uri)


@contextmanager
def one_writer(uri: str) -> Iterator[None]:
    """Hold a database file for writing; nothing for a server."""
    if not uri.startswith(SQLITE):
        yield
        return
    with Path(uri.removeprefix(SQLITE)).with_name(".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def experiment_id(client: Any, name: str, uri: str) -> str:
    """The experiment of that name, created if there is none; files of a database's runs lie beside it."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if uri.startswith(SQLITE):
        location = str(Path(uri.removeprefix(SQLITE)).resolve().with_name("mlflow-artifacts"))
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except Exception:
        # Two runs that begin together both find none; the second to create it finds the first one's.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
