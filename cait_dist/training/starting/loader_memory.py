"""Whether the batches of all decoding workers on a node fit into the memory that processes share."""

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from cait_dist.config import RunConfig
from cait_dist.data.shared_memory import (
    SharedMemoryError,
    check_shared_memory,
    evaluation_bytes,
    training_bytes,
)

from ..evaluating.sets import OpenSet
from ..ranks.naming import host_name
from ..ranks.process_group import World
from .plan import Plan


def check_loader_memory(config: RunConfig, plan: Plan, world: World, eval_sets: Sequence[OpenSet]) -> None:
    """Look before any rank of the node starts its workers, which would take of what is free. Collective.

    Training's workers keep their memory while an evaluation's need theirs.

    Raises:
        SharedMemoryError: on all ranks, if it is too small on one node
    """
    data, size = config.data, plan.image_size
    each = max(
        (evaluation_bytes(data.workers, config.evaluation.batch, s.loader.num_samples, size) for s in eval_sets),
        default=0,
    )
    if data.decoder == "exact":
        each += training_bytes(data.workers, data.prefetch, plan.batches.micro_batch, size)
    problem = None
    try:
        check_shared_memory(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), each, host_name())
    except SharedMemoryError as error:
        problem = str(error)
    problems: list[Any] = [None] * world.size
    dist.all_gather_object(problems, problem, group=world.control)
    if found := next((problem for problem in problems if problem), None):
        raise SharedMemoryError(found)
