"""What an attempt is going to do, in numbers that its configuration alone does not tell: ``attempt-K/facts.json``.

The planner's promises and a comparison of runs are held against these: sizes of the model, the data and the batches,
and the device.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cait_dist.config import RunConfig
from cait_dist.models import architecture
from cait_dist.planning.counting.flops import count_macs
from cait_dist.planning.counting.gpu_demand import FLOPS_PER_MAC, PASSES_PER_STEP, PEAK_FLOPS
from cait_dist.tracking.run_directory import write_json

from ..evaluating.sets import OpenSet
from ..ranks.process_group import World
from ..zero_partition import ZeroPartition
from .plan import Plan

FACTS_FILE = "facts.json"


def gather_facts(
    config: RunConfig, plan: Plan, world: World, partition: ZeroPartition, sets: Sequence[OpenSet]
) -> dict[str, Any]:
    """The facts of an attempt; nothing is exchanged between ranks."""
    return {
        "parameters": sum(math.prod(shape) for shape in partition.shapes.values()),
        "macs": _macs(config, plan),
        "image_size": plan.image_size,
        "train_images": plan.calendar.num_samples,
        "train_digest": plan.data_digest,
        "teacher_digest": plan.teacher_digest,
        "global_batch": plan.batches.global_batch,
        "micro_batch": plan.batches.micro_batch,
        "accumulation": plan.batches.accumulation,
        "total_steps": plan.calendar.total_steps,
        **_device(world.device, config.training.precision),
        "sets": {chosen.name: {"digest": chosen.digest, "images": chosen.num_samples} for chosen in sets},
    }


def write_facts(attempt_dir: Path, facts: dict[str, Any]) -> None:
    """Write them down; for rank 0."""
    write_json(attempt_dir / FACTS_FILE, facts)


def mfu(facts: dict[str, Any], images_per_second: float, devices: int) -> float | None:
    """Share of the devices' peak that the model's own arithmetic reaches; None where no peak is known.

    What stochastic depth leaves out is counted, what activation checkpointing does twice is not.
    """
    if facts["peak_flops"] is None:
        return None
    return float(PASSES_PER_STEP * FLOPS_PER_MAC * facts["macs"] * images_per_second / (devices * facts["peak_flops"]))


def _macs(config: RunConfig, plan: Plan) -> int:
    """Multiply-adds of one forward pass of one image."""
    return count_macs(architecture(config.model.name, num_classes=plan.num_classes, **config.model.overrides)).total


def _device(device: torch.device, precision: str) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": device.type, "peak_flops": None}
    name = torch.cuda.get_device_name(device)
    known = PEAK_FLOPS if precision == "bf16" else {}
    return {"device": name, "peak_flops": next((peak for kind, peak in known.items() if kind in name), None)}
