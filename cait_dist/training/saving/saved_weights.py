"""The weights of a checkpoint, and the configuration that says what they are: what a look into a model begins with."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cait_dist.config import RunConfig

from ..evaluating.request import ALL, NEWEST, EvaluationError, Request, chooser, chosen_weights, find_run, read_config
from .checkpoint import read_weights
from .checkpoint_files import Checkpoint, CheckpointError, list_checkpoints
from .export import KINDS


def open_weights(
    place: Path, step: str | None = None, weights: str = "raw"
) -> tuple[Path, RunConfig, dict[str, Tensor], int, str, str]:
    """Read one kind of weights of one checkpoint.

    Args:
        place: a run directory, or one of its checkpoints
        step: ``newest`` or a step; None for the newest
        weights: ``raw`` or ``ema``

    Returns:
        run directory, configuration, whole fp32 weights by name, step, kind of weights, digest of the checkpoint

    Raises:
        ValueError: of the project's own kinds, if there is no such run, checkpoint or kind of weights
    """
    run, config, checkpoint, kind = find_weights(place, step, weights)
    if damage := checkpoint.damage():
        raise CheckpointError(f"checkpoint {checkpoint.path} is damaged: {damage}; choose another --step")
    return run, config, read_weights(checkpoint, KINDS[kind]), checkpoint.step, kind, checkpoint.digest


def find_weights(place: Path, step: str | None = None, weights: str = "raw") -> tuple[Path, RunConfig, Checkpoint, str]:
    """Where weights lie, without reading them; arguments and errors as `open_weights`.

    Returns:
        run directory, configuration, checkpoint, kind of weights
    """
    if step == ALL:
        raise EvaluationError("--step must be a number or 'newest': one checkpoint is looked at")
    request = Request(place, step, (weights,))
    run = find_run(request)
    config = read_config(run, request)
    kind = chosen_weights(config, request.weights)[0]
    found = chooser(request, run)()
    if not found:
        steps = ", ".join(str(checkpoint.step) for checkpoint in list_checkpoints(run.checkpoints)) or "none"
        wanted = f" of step {step}" if step not in (None, NEWEST) else ""
        raise EvaluationError(f"{place}: there is no complete checkpoint{wanted} (complete: {steps})")
    return run.path, config, found[0], kind
