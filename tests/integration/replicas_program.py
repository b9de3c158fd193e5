"""Flips one bit of one weight on one of three ranks, at the stages that hold replicas, in both precisions.

Argument: {"config": path}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from zero_program import Case

from cait_dist.training.ranks.process_group import World, join
from cait_dist.training.recovering.replicas import DeviatingRankError, compare_replicas

WRONG_RANK = 1


def outcome(case: Case, world: World) -> str:
    try:
        compare_replicas(case.engine, world, 7)
    except DeviatingRankError as error:
        return str(error)
    return ""


def examine(name: str, settings: list[str], config: str, world: World) -> list[str]:
    """What is said: before any harm, after a bit was flipped on one rank, after on two different ones."""
    overrides = ["training.global_batch=12", "augment.mixup=0", "augment.cutmix=0", *settings]
    case = Case({"name": name, "overrides": overrides, "steps": 1, "perturb": True}, config, world)
    case.run()
    told = [outcome(case, world)]
    weight = case.engine.module.blocks[0].mlp.fc1.weight.data.view(-1)
    bits = weight.view(torch.int32 if weight.dtype is torch.float32 else torch.int16)
    for rank in (WRONG_RANK, WRONG_RANK + 1):
        if world.rank == rank:
            bits[rank] ^= 1  # the last bit of the mantissa
        told.append(outcome(case, world))
    return told


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world, found = join(120), dict[str, Any]()
    for stage in (0, 1, 2):
        for precision in ("fp32", "bf16"):
            name = f"z{stage}-{precision}"
            settings = [f"training.zero.stage={stage}", f"training.precision={precision}"]
            found[name] = examine(name, settings, arguments["config"], world)
    everyone: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(everyone, found, group=world.control)
    if world.is_main:
        out.write_text(json.dumps(everyone))
    world.barrier()
    world.leave()


if __name__ == "__main__":
    main()
