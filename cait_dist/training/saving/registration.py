"""`cait track register`: from a run's newest checkpoint to a version of a model in MLflow's registry."""

import tempfile
from pathlib import Path

from cait_dist.tracking.registry import place_of, register, version_tags
from cait_dist.tracking.run_directory import RunDirectory

from .checkpoint_files import list_checkpoints
from .export import export_weights


def register_run(run_dir: Path, name: str, weights: str, aliases: tuple[str, ...], uri: str | None) -> str:
    """Export, upload and register; returns a line that says which version it is.

    Args:
        run_dir: of a run that is in MLflow
        name: of the model
        weights: raw or ema
        aliases: that shall name this version
        uri: MLflow server or database; None for the one the run is mirrored to

    Raises:
        CheckpointError: when there is no checkpoint or no such weights
        RunDirectoryError: when the run is not in MLflow, or MLflow does not take it
    """
    run = RunDirectory.existing(run_dir)
    place = place_of(run, uri)
    checkpoints = list_checkpoints(run.checkpoints)
    step = checkpoints[-1].step if checkpoints else None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{run.path.name}-step-{step or 0:08}-{weights}.safetensors"
        export_weights(run_dir, file, weights, step)
        return register(run, place, name, file, version_tags(run, step or 0, weights), aliases)
