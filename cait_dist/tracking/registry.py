"""A run's weights as a version of a model in MLflow's registry: found by name and alias, from any machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cait_dist.config import load_config

from .metrics import read_metrics, series
from .mlflow_client import MlflowMissingError, bound_client
from .mlflow_mirror import default_uri
from .mlflow_run import first_line
from .probe import probe
from .run_directory import RunDirectory, RunDirectoryError, read_json
from .sqlite_file import one_writer

FOLDER = "weights"
"""Of the run's files in MLflow. Each version has a folder in it: what `models:/NAME@ALIAS` fetches is a folder."""
UPLOAD_SECONDS = "600"
"""For one request: the largest model's weights are more than a gigabyte."""


@dataclass(frozen=True)
class Place:
    """Where a run is in MLflow."""

    uri: str
    run_id: str


def place_of(run: RunDirectory, uri: str | None = None) -> Place:
    """Find the run's mirror.

    Args:
        run: the directory
        uri: server or database; None for the one the run is mirrored to

    Raises:
        RunDirectoryError: if the run is not there, or nobody answers
    """
    known = read_json(run.mirror)
    tracking = load_config(run.config).config.tracking
    target = uri or (known or {}).get("uri") or tracking.uri or default_uri(run.path.parent)
    if not known or known["uri"] != target:
        raise RunDirectoryError(f"{run.path} is not in MLflow at {target}: call `cait track sync {run.path}` first")
    answer = probe(target) if target.startswith("http") else None
    if answer is not None and answer.state != "ok":
        raise RunDirectoryError(f"{run.path}: MLflow: {answer.text}")
    return Place(target, known["run_id"])


def register(
    run: RunDirectory, place: Place, name: str, weights: Path, tags: Mapping[str, str], aliases: tuple[str, ...] = ()
) -> str:
    """Upload weights and make a version of a model of them. A version with the same tags is taken as it is.

    Args:
        run: that made them
        place: of the run in MLflow
        name: of the model, created if there is none
        weights: file to upload
        tags: of the version
        aliases: that shall name this version from now on

    Returns:
        a line that says which version it is

    Raises:
        RunDirectoryError: if MLflow does not take it
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", UPLOAD_SECONDS)
    try:
        with one_writer(place.uri):
            client = bound_client(place.uri)
            version = _known_version(client, name, place.run_id, tags)
            made = version is None
            if version is None:
                folder = f"{FOLDER}/{weights.stem}"
                client.log_artifact(place.run_id, str(weights), folder)
                version = _create(client, name, place.run_id, folder, tags)
            for alias in aliases:
                client.set_registered_model_alias(name, alias, version)
    except MlflowMissingError:
        raise
    except Exception as error:  # MLflow, its database and the network raise many kinds
        raise RunDirectoryError(
            f"{run.path}: MLflow at {place.uri} does not take the model {name} ({first_line(error)})"
        ) from error
    named = "".join(f", {alias}" for alias in aliases)
    return f"{name} version {version}{named}: {'made from' if made else 'was made before from'} {run.path}"


def version_tags(run: RunDirectory, step: int, weights: str) -> dict[str, str]:
    """What tells a version from others.

    Args:
        run: that made it
        step: of its checkpoint
        weights: raw or ema
    """
    record, config = run.read_record(), load_config(run.config).config
    tags = {
        "step": str(step),
        "weights": weights,
        "variant": config.model.name,
        "commit": record["attempts"][-1]["code"].get("commit", "unknown"),
        "run_dir": str(run.path.resolve()),
    }
    rows = [row for row in read_metrics(run) if row["step"] <= step]
    for chosen in config.evaluation.sets:
        prefix = chosen.name if weights == "raw" else f"{chosen.name}_{weights}"
        if measured := series(rows, f"{prefix}/top1"):
            tags[f"{chosen.name}/top1"] = f"{measured[-1][1]:.3f}"
    return tags


def _known_version(client: Any, name: str, run_id: str, tags: Mapping[str, str]) -> str | None:
    quoted = name.replace("'", "\\'")
    for found in client.search_model_versions(f"name='{quoted}'"):
        if found.run_id == run_id and all(found.tags.get(key) == tags[key] for key in ("step", "weights")):
            return str(found.version)
    return None


def _create(client: Any, name: str, run_id: str, folder: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, f"runs:/{run_id}/{folder}", run_id=run_id, tags=dict(tags), await_creation_for=0
    )
    return str(made.version)
