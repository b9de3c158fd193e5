"""`cait track sync`: fill an MLflow that was unreachable, late, or is new."""

from pathlib import Path
from typing import Any

from cait_dist.config import RunConfig, flatten, load_config

from .mlflow_mirror import MlflowRun, default_uri
from .run_directory import RunDirectory, RunDirectoryError


def sync_to_mlflow(run_dir: Path, uri: str | None = None) -> str:
    """Send everything the run directory holds and MLflow lacks; idempotent.

    Args:
        run_dir: of a run that is not live
        uri: server or database; None for the one the run was configured with

    Returns:
        a line that says what was sent

    Raises:
        RunDirectoryError: when there is no run, it is live, or MLflow does not answer
    """
    run = RunDirectory.existing(run_dir)
    if run.is_live():
        raise RunDirectoryError(f"{run_dir} is being trained now and mirrors itself: call this when it has ended")
    config = load_config(run.config).config
    target = uri or config.tracking.uri or default_uri(run.path.parent)
    mlflow_run = MlflowRun(run, target, config.tracking.experiment)
    try:
        mlflow_run.open(flatten(config), mlflow_tags(run, config))
        sent = mlflow_run.send_all()
    except Exception as error:  # MLflow, its database and the network raise many kinds
        raise RunDirectoryError(f"MLflow at {target} does not answer: {error}") from error
    return f"{run_dir}: {sent} values sent to {target}"


def mlflow_tags(run: RunDirectory, config: RunConfig) -> dict[str, str]:
    """What a run is found by in MLflow."""
    attempts = run.read_record()["attempts"]
    latest: dict[str, Any] = attempts[-1]
    tags = {
        "variant": config.model.name,
        "world_size": str(latest["processes"]),
        "attempts": str(latest["number"]),
        "commit": latest["code"].get("commit", "unknown"),
        "run_dir": str(run.path.resolve()),
    }
    if config.tracking.parent_run_id is not None:
        tags["mlflow.parentRunId"] = config.tracking.parent_run_id
    if "job" in latest:
        tags |= {
            "slurm_job": latest["job"],
            "nodes": " ".join(latest["nodes"]),
            "lost_seconds": f"{sum(a.get('lost_seconds', 0) for a in attempts):.0f}",
            "redone_steps": str(sum(a.get("redone_steps", 0) for a in attempts)),
        }
    return tags
