"""Checkpoints: a directory that is complete, or ignored.

Layout of ``checkpoints/step-00001234/``::

    rank-00000.safetensors   fragments of the master weights, the optimizer's moments and the moving average,
    rank-00001.safetensors   one file per rank that wrote; keys are KIND/PARAMETER@START
    state.json               step, clocks, best scores, shapes, and size and SHA-256 of every file above
    COMPLETE                 SHA-256 of state.json; written last

A fragment says which elements of which parameter it holds, whatever partitioning made it. So a checkpoint loads on any
number of ranks and any ZeRO stage: each rank picks the ranges it needs out of all files. Everything is written into
``step-00001234.partial``, flushed to the disk, then renamed: a crash leaves no directory that looks complete. How it is
written is told in ``checkpoint_saver``; here it is read.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open

from ...models.weight_files import on_a_line
from ..ema import MovingAverage
from ..ranks.process_group import World
from ..zero_partition import ZeroPartition
from .checkpoint_files import COMPLETE, STATE, Checkpoint, CheckpointError, unreadable_checkpoints

_BEFORE = "trying the one before it"


def load_checkpoint(checkpoint: Checkpoint, partition: ZeroPartition, ema: MovingAverage | None) -> None:
    """Fill this rank's master weights, moments and average, and refresh the model. Collective.

    Raises:
        CheckpointError: when the model has other parameters, or elements are missing
    """
    stored = {name: tuple(shape) for name, shape in checkpoint.state["shapes"].items()}
    if stored != partition.shapes:
        raise CheckpointError(f"{checkpoint.path} is of another model: {_first_difference(stored, partition.shapes)}")
    kinds: dict[str, list[torch.Tensor]] = {"master": partition.masters()}
    kinds |= {kind: partition.moments(kind) for kind in partition.moment_kinds}
    if ema is not None:
        kinds["ema"] = ema.flats
    partition.forget_gathered()
    with _Pieces(checkpoint) as pieces, torch.no_grad():
        for kind, flats in kinds.items():
            # A run that starts to average its weights only now starts from the weights.
            source = kind if pieces.has(kind) else "master"
            for fragment in partition.fragments:
                pieces.copy(source, fragment.name, fragment.start, fragment.of(flats))
    partition.optimizer_steps = int(checkpoint.state["optimizer_steps"])
    partition.publish()


def read_weights(checkpoint: Checkpoint, kind: str) -> dict[str, torch.Tensor]:
    """Whole fp32 weights by parameter name, without any process group.

    Args:
        checkpoint: written by any number of ranks at any ZeRO stage
        kind: ``master`` or ``ema``

    Raises:
        CheckpointError: when that kind was not saved
    """
    shapes = checkpoint.state["shapes"]
    # Memory is laid out by the description's word, which may be anybody's.
    if 4 * sum(map(math.prod, shapes.values())) > sum(entry["bytes"] for entry in checkpoint.state["files"].values()):
        raise CheckpointError(f"{checkpoint.path} describes more weights than its files hold: choose an older step")
    with _Pieces(checkpoint) as pieces:
        if not pieces.has(kind):
            raise CheckpointError(f"{checkpoint.path} holds no moving average: training.ema_decay was not set")
        weights = {name: torch.empty(tuple(shape)) for name, shape in shapes.items()}
        for name, weight in weights.items():
            pieces.copy(kind, name, 0, weight.view(-1))
    return weights


class _Pieces:
    """All fragments of a checkpoint, found by kind, parameter and range."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stack = ExitStack()
        self._index: dict[tuple[str, str], list[tuple[int, str, Any]]] = {}

    def __enter__(self) -> "_Pieces":
        for name in sorted(self._checkpoint.state["files"]):
            path = self._checkpoint.path / name
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                reason = on_a_line(str(error))
                raise CheckpointError(f"{path} cannot be read ({reason}): resume from an older step") from None
            for key in file.keys():  # noqa: SIM118 - not a mapping
                kind, parameter, start = _parse_key(path, key)
                if len(file.get_slice(key).get_shape()) != 1:
                    raise CheckpointError(f"{path} holds {key[:200]!r} of another shape: resume from an older step")
                self._index.setdefault((kind, parameter), []).append((start, key, file))
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    def has(self, kind: str) -> bool:
        return any(k == kind for k, _ in self._index)

    def copy(self, kind: str, parameter: str, start: int, target: torch.Tensor) -> None:
        """Fill the flat ``target`` with the parameter's elements from ``start`` on."""
        filled, end = 0, start + target.numel()
        for where, key, file in self._index.get((kind, parameter), ()):
            piece = file.get_slice(key)
            low, high = max(start, where), min(end, where + piece.get_shape()[0])
            if low < high:
                target[low - start : high - start].copy_(piece[low - where : high - where])
                filled += high - low
        if filled != target.numel():
            what = f"{kind}/{on_a_line(parameter)}"
            raise CheckpointError(f"{self._checkpoint.path} lacks elements of {what}: resume from an older step")


def agree_on_checkpoint(candidates: list[Checkpoint], world: World, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as recorded; damaged ones are named and passed over. Collective."""
    if candidates:
        # Those that cannot even be opened are no candidates, but whoever resumes must know that steps are done again.
        for path in unreadable_checkpoints(candidates[-1].path.parent):
            if path.name > candidates[-1].path.name:
                warn(f"checkpoint {path.name} is damaged: {STATE} or {COMPLETE} is not as written; {_BEFORE}")
    for checkpoint in reversed(candidates):
        found: list[str | None] = [None] * world.size
        dist.all_gather_object(found, checkpoint.damage(slice(world.rank, None, world.size)), group=world.control)
        damages = [damage for damage in found if damage]
        if not damages:
            return checkpoint
        warn(f"checkpoint {checkpoint.path.name} is damaged: {damages[0]}; {_BEFORE}")
    return None


def _parse_key(path: Path, key: str) -> tuple[str, str, int]:
    kind, _, rest = key.partition("/")
    parameter, _, start = rest.rpartition("@")
    if not (start.isascii() and start.isdigit() and len(start) < 19):
        raise CheckpointError(f"{path} holds {key[:200]!r}, which is no fragment: resume from an older step")
    return kind, parameter, int(start)


def _first_difference(stored: dict[str, Any], ours: dict[str, Any]) -> str:
    def differences() -> Iterator[str]:
        for name in sorted({*stored, *ours}):
            if stored.get(name) != ours.get(name):
                here, there = ours.get(name, "absent"), stored.get(name, "absent")
                yield f"{on_a_line(name)} is {there} in it and {here} in this run"

    return next(differences())
