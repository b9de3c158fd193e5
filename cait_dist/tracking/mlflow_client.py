"""MLflow's client, bounded in time, and deaf to what the environment says to other programs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from .database import database_uri
from .sqlite_file import SQLITE

_BOUNDED = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_FIXED = {
    # A request whose answer was lost may have done its work. To ask again is for those who look first what is there.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It would print the run's address into the progress of training.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_FOREIGN = ("MLFLOW_RUN_ID", "MLFLOW_ENABLE_ASYNC_LOGGING")
"""Set by a user for another program: every process of this job would write into one foreign run, or lose values."""


class MlflowMissingError(ValueError):
    """MLflow cannot be loaded; the message says why and what then."""


def bound_client(uri: str) -> Any:
    """A client that gives up on a silent server after seconds, not hours.

    Raises:
        MlflowMissingError: when MLflow is not installed, or broken
    """
    client = load_mlflow()
    # Of a fresh database it would tell every migration.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = database_uri(uri)
    return client(place, registry_uri=place)


def load_mlflow() -> Any:
    """The class of MLflow's clients, with settings that are ours. It takes seconds the first time.

    Raises:
        MlflowMissingError: when MLflow is not installed, or broken
    """
    os.environ.update(_FIXED)
    for name, value in _BOUNDED.items():
        os.environ.setdefault(name, value)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    try:
        from mlflow import MlflowClient  # noqa: PLC0415
    except Exception as error:  # a half-installed package fails in many ways
        raise MlflowMissingError(
            f"MLflow cannot be loaded ({type(error).__name__}: {error}): install it with pip install 'mlflow>=3.13,<4'"
        ) from error
    return MlflowClient


def experiment_id(client: Any, name: str, uri: str, runs_dir: Path) -> str:
    """The experiment of that name, created if there is none.

    A server knows a place for the files of its runs. Those of an SQLite file lie beside it, those of another database
    beside the runs: MLflow would put them wherever the command was called.

    Raises:
        ValueError: when it was deleted in MLflow, which keeps the name
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        found = _created(client, name, uri, runs_dir)
    if found.lifecycle_stage != "active":
        raise ValueError(f"the experiment '{name}' was deleted in MLflow: restore it there, or set tracking.experiment")
    return str(found.experiment_id)


def _created(client: Any, name: str, uri: str, runs_dir: Path) -> Any:
    location = None
    if not uri.startswith(("http://", "https://")):
        folder = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else runs_dir
        location = str(folder.resolve() / "mlflow-artifacts")
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=location))
    except Exception:
        # Two runs that begin together both find none; the second to create it finds the first one's.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found
