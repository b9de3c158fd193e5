"""Evaluation in fp32 while training computes in another type.

The weights that an optimizer keeps are fp32, whatever the model computes with; the moving average is, too. To be
evaluated as they are, they are brought together from all ranks into a plain model of fp32 parameters, which every rank
holds for the time of the evaluation: 1.4 GB for the largest CaiT. The model that is trained is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from cait_dist.config import RunConfig
from cait_dist.models import Cait

from ..ema import MovingAverage
from ..ranks.process_group import World
from ..starting.initial_model import build_model
from ..zero_partition import ZeroPartition


def evaluation_precision(config: RunConfig) -> str:
    """What the products of an evaluation are computed in."""
    return config.evaluation.precision or config.training.precision


@contextmanager
def model_to_evaluate(
    config: RunConfig, engine: Any, partition: ZeroPartition, average: MovingAverage | None, world: World
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """What computes logits while training is interrupted. Collective on entry and exit.

    Args:
        config: of the run
        engine: of DeepSpeed, in evaluation mode
        partition: says where the weights lie
        average: the moving average to compute with; None for the weights themselves
        world: the ranks that hold them
    """
    if config.evaluation.precision == "fp32":
        flats = partition.masters() if average is None else average.flats
        with whole_in_fp32(config, partition, flats, world) as model:
            yield model
    else:
        with nullcontext() if average is None else average.in_place():
            yield engine


@contextmanager
def whole_in_fp32(
    config: RunConfig, partition: ZeroPartition, flats: list[torch.Tensor], world: World
) -> Iterator[Cait]:
    """A plain model in evaluation mode with the partitioned weights. Collective on entry; draws no random numbers.

    Args:
        config: of the run
        partition: says where the weights lie
        flats: the weights: ``partition.masters()``, or those of a moving average
        world: the ranks that hold them
    """
    weights = gather_weights(partition, flats, world)
    with torch.device("meta"):
        model = build_model(config.model, partition.shapes["head.weight"][0])
    model.load_state_dict(weights, assign=True)
    with products_in_fp32():
        yield model.eval()


@torch.no_grad()
def gather_weights(partition: ZeroPartition, flats: list[torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """Whole fp32 tensors by name, on every rank. Collective."""
    weights = {
        name: torch.zeros(shape, dtype=torch.float32, device=world.device) for name, shape in partition.shapes.items()
    }
    for fragment in partition.owned:
        target = weights[fragment.name].view(-1).narrow(0, fragment.start, fragment.numel)
        target.copy_(fragment.of(flats))
    for weight in weights.values():
        dist.all_reduce(weight)  # of zeros and one value: exact
    return weights


@contextmanager
def products_in_fp32() -> Iterator[None]:
    """GPUs convolve fp32 in TF32 unless told otherwise, and multiply so if somebody told them to: not in here."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
