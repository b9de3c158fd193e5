"""The MLflow run of a whole sweep, under which its members are shown."""

from __future__ import annotations

import sys
from pathlib import Path

from cait_dist.config.tracking import TrackingConfig

from .mlflow_client import bound_client, experiment_id
from .mlflow_mirror import default_uri
from .sqlite_file import one_writer


def open_parent_run(
    folder: Path, tracking: TrackingConfig, axes: dict[str, list[str]], known: str | None
) -> str | None:
    """Create the run of a sweep, or set the known one to RUNNING again; returns its id.

    A server that does not answer costs a warning: the members are trained all the same, and are not grouped.
    """
    uri = tracking.uri or default_uri(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with one_writer(uri):
            client = bound_client(uri)
            if known is not None:
                client.update_run(known, status="RUNNING")
                return known
            experiment = experiment_id(client, tracking.experiment, uri, folder.parent)
            created = client.create_run(experiment, run_name=folder.name, tags={"sweep": "parent"})
            for key, values in axes.items():
                client.log_param(created.info.run_id, key, ", ".join(values))
            return str(created.info.run_id)
    except Exception as error:  # MLflow, its database and the network raise many kinds
        print(f"MLflow at {uri} does not answer, the members will not be grouped there: {error}", file=sys.stderr)
        return known


def close_parent_run(uri: str, run_id: str, all_finished: bool) -> None:
    """Give the run of a sweep its final status; a server that does not answer costs a warning."""
    try:
        with one_writer(uri):
            bound_client(uri).set_terminated(run_id, "FINISHED" if all_finished else "FAILED")
    except Exception as error:  # as above
        print(f"MLflow at {uri} does not know that the sweep has ended: {error}", file=sys.stderr)
