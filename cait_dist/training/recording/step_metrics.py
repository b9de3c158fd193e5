"""What a logged step says about itself and its speed: values for the metrics file, agreed on by all ranks."""

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cait_dist.data.loader import MicroBatch

from ..ranks.process_group import World
from ..starting.facts import mfu
from ..step import StepResult


def learning_metrics(result: StepResult, world: World, grad_norm: Any) -> dict[str, float]:
    """Loss, norm of the gradient where it is known, and the teacher's part if there is one. Collective."""
    values = {"train/loss": float(world.sum(result.loss) / world.size)}
    if grad_norm is not None:
        values["train/grad_norm"] = float(grad_norm)
    if result.taught is not None:
        taught = (world.sum(result.taught) / world.size).tolist()
        values |= dict(zip(("train/distillation_loss", "train/teacher_agreement"), taught, strict=True))
    return values


def speed_metrics(result: StepResult, seconds: float, facts: dict[str, Any], world: World) -> dict[str, float]:
    """Images per second, share of the peak where that is known, waiting, memory, and the slowest rank. Collective.

    Args:
        result: of the step
        seconds: it took
        facts: of the attempt
        world: the process group
    """
    images_per_second = facts["global_batch"] / seconds
    busy = world.gather(result.data_wait + result.forward.seconds())
    values = {
        "perf/step_seconds": seconds,
        "perf/peak_memory_gb": peak_memory_gb(world.device),
        "perf/images_per_second": images_per_second,
        "perf/data_wait_share": min(1.0, result.data_wait / seconds),
    }
    if (share := mfu(facts, images_per_second, world.size)) is not None:
        values["perf/mfu"] = share
    if world.size > 1:
        values["perf/slowest_rank"] = float(busy.index(max(busy)))
        values["perf/slowest_rank_behind_seconds"] = max(busy) - statistics.median(busy)
    return values


def timed(batches: Iterator[MicroBatch]) -> Iterator[tuple[MicroBatch, float]]:
    """Each micro-batch with the seconds it was waited for."""
    clock: Callable[[], float] = time.perf_counter
    while True:
        began = clock()
        batch = next(batches)
        yield batch, clock() - began


def peak_memory_gb(device: torch.device) -> float:
    """Most memory the process has held: on the device, or of the host where that is the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
