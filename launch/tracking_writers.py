"""Who will write to MLflow's database: an SQLite file takes the writers of one machine, and only on its own disk.

Asked before anything is queued or written. A server takes any number of writers, from anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from cait_dist.config import RunConfig
from cait_dist.tracking.database import sqlite_file
from cait_dist.tracking.file_system import network_file_system
from cait_dist.tracking.mlflow_mirror import default_uri

REMEDY = (
    "start `cait track serve` and set tracking.uri=http://…, or set tracking.mlflow=false and call `cait track sync`"
    " afterwards"
)


class TrackingWritersError(ValueError):
    """MLflow's database would not bear those who write to it; the message says what to do."""


def check_one_writer(config: RunConfig, mountinfo: str | None = None) -> None:
    """See that the run's SQLite file, if it has one, lies on a disk of a machine.

    Args:
        config: of the run
        mountinfo: see `network_file_system`

    Raises:
        TrackingWritersError: if it lies on a network file system
    """
    file = sqlite_file(_uri(config)) if config.tracking.mlflow else None
    kind = network_file_system(file, mountinfo) if file else None
    if kind is not None:
        raise TrackingWritersError(
            f"MLflow's database {file} would lie on a network file system ({kind}), where SQLite breaks: {REMEDY}"
        )


def check_many_writers(configs: Iterable[RunConfig]) -> None:
    """See that runs which are jobs of their own, on any nodes and at the same time, do not write one SQLite file.

    Raises:
        TrackingWritersError: if they would
    """
    for config in configs:
        if config.tracking.mlflow and (file := sqlite_file(_uri(config))):
            raise TrackingWritersError(
                f"several jobs would write to MLflow's database {file}, which SQLite does not bear: {REMEDY}"
            )


def warn_if_unreachable(config: RunConfig) -> None:
    """Say so on standard error if MLflow cannot be reached from here: a job would say it hours later, in its log."""
    from .check.tracking_server import unreachable  # noqa: PLC0415

    reason = unreachable(_uri(config)) if config.tracking.mlflow else None
    if reason is not None:
        print(f"warning: MLflow: {reason}; the run does without, `cait track sync` sends it later", file=sys.stderr)


def _uri(config: RunConfig) -> str:
    return config.tracking.uri or default_uri(config.runs_dir)
