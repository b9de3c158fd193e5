"""Batch arithmetic: from the global batch a user asks for to what each rank computes at once.

The global batch decides what is learnt, so it is kept whatever the number of ranks; only the split into micro-batches
follows the hardware.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """``global_batch = world_size * micro_batch * accumulation``, exactly."""

    global_batch: int
    world_size: int
    micro_batch: int
    accumulation: int

    def __str__(self) -> str:
        """One line for the console."""
        return (
            f"global batch {self.global_batch} = {self.world_size} ranks × {self.micro_batch} samples"
            f" × {self.accumulation} accumulation steps"
        )


def plan_batches(global_batch: int, world_size: int, limit: int | None, *, pairs: bool = False) -> BatchPlan:
    """Split the global batch with as few accumulation steps as the limit allows.

    Args:
        global_batch: samples per optimizer step
        world_size: number of ranks
        limit: most samples per rank and forward pass, None for no limit
        pairs: whether a micro-batch must hold whole pairs (mixup and cutmix blend neighbours)

    Raises:
        ValueError: where no exact split exists, naming the numbers that would work
    """
    unit = 2 if pairs else 1
    if global_batch % (world_size * unit):
        raise ValueError(_no_split(global_batch, world_size, unit))
    per_rank = global_batch // world_size
    if limit is not None and limit < unit:
        raise ValueError(f"training.micro_batch_limit must be at least {unit} with mixup or cutmix, got {limit}")
    micro = max(size for size in _divisors(per_rank) if size % unit == 0 and size <= (limit or per_rank))
    return BatchPlan(global_batch, world_size, micro, per_rank // micro)


def _divisors(number: int) -> set[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return {*small, *(number // d for d in small)}


def _no_split(global_batch: int, world_size: int, unit: int) -> str:
    step = world_size * unit
    below, above = global_batch // step * step, -(-global_batch // step) * step
    worlds = (
        sorted(d for d in _divisors(global_batch // unit) if d <= 2 * world_size) if global_batch % unit == 0 else []
    )
    pairs = " in pairs (mixup and cutmix blend neighbours)" if unit == 2 else ""
    batches = " or ".join(str(b) for b in (below, above) if b)
    hint = f", or run on {', '.join(map(str, worlds))} processes" if worlds else ""
    return (
        f"training.global_batch {global_batch} cannot be split over {world_size} processes{pairs}: "
        f"set training.global_batch to {batches}{hint}"
    )
