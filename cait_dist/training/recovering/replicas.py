"""Do all ranks still compute with the same weights?

Up to ZeRO stage 2 every rank holds all weights, and they are the same to the bit: each update is computed once and sent
to all. A rank that deviates has a fault that raises no error, in memory, on the bus, in a core; what it sends from then
on spoils the gradients of all. A sum over the bits of the weights tells, at the price of reading them once.

At stage 3 weights are partitioned: no two ranks hold the same, and nothing can be compared.
"""

import platform
from collections import Counter
from typing import Any

import torch
import torch.distributed as dist

from ..ranks.process_group import World

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


class DeviatingRankError(ValueError):
    """A rank's weights are not those of the others; the message names it, its node and what can be done."""


def compare_replicas(engine: Any, world: World, step: int) -> None:
    """Hold the ranks' weights against each other. Collective.

    Args:
        engine: from ``parallelize``
        world: the process group
        step: done by now, for the message

    Raises:
        DeviatingRankError: on every rank, if there are differences
    """
    if world.size == 1 or engine.zero_optimization_stage() == 3:
        return
    found = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    dist.all_gather(found, _checksum(engine.module).cpu().view(1), group=world.control)
    sums = [int(each) for each in found]
    if len(set(sums)) == 1:
        return
    nodes: list[Any] = [None] * world.size
    dist.all_gather_object(nodes, platform.node(), group=world.control)
    raise DeviatingRankError(
        f"after step {step} {_deviating(sums, nodes)}: a fault of the hardware, most likely. Leave the node out"
        " (--exclude), and go on with the same command from a checkpoint before it: --resume STEP"
    )


@torch.no_grad()
def _checksum(module: torch.nn.Module) -> torch.Tensor:
    """Of all bits, int64; each weight counts with its place, so that errors hardly cancel out."""
    total, place = torch.zeros((), dtype=torch.int64), 1
    for parameter in module.parameters():
        bits = parameter.view(_BITS[parameter.dtype]).flatten().long()
        places = torch.arange(place, place + len(bits), device=bits.device)
        total = total.to(bits.device) + (bits * places).sum()
        place += len(bits)
    return total


def _deviating(sums: list[int], nodes: list[str]) -> str:
    usual, count = Counter(sums).most_common(1)[0]
    if count * 2 <= len(sums):
        named = ", ".join(f"rank {rank} on {node}" for rank, node in enumerate(nodes))
        return f"the ranks hold different weights, and no majority tells which are right ({named})"
    wrong = [f"rank {rank} on {nodes[rank]}" for rank, found in enumerate(sums) if found != usual]
    return f"{' and '.join(wrong)} {'hold' if len(wrong) > 1 else 'holds'} other weights than the other ranks"
