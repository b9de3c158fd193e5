"""Every rank looks at itself, all look at what is between them, and all learn what all have seen."""

import time
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from cait_dist.training.ranks.process_group import World

from .measure import examine_device
from .node import read_node, read_process
from .report import RankReport, TrafficReport
from .shared_folder import try_folder
from .traffic import all_agree, try_traffic

CLOCK_READINGS = 3

Own = TypeVar("Own")


def gather_reports(world: World, run_dir: Path) -> list[RankReport]:
    """The reports of all ranks, by rank, on every rank. Collective; takes about a second and trains nothing."""
    process = read_process()
    leaders = first_of_each(_gather(world, process.host))
    node = read_node(run_dir) if world.rank in leaders else None
    clock = _read_clock(world)
    folder = try_folder(world, run_dir, leaders)
    world.barrier()  # as in training, all ranks of a node compute at the same time
    device = examine_device(world.device)
    # A GPU that cannot even multiply would be waited for.
    traffic = try_traffic(world, leaders) if all_agree(world, device.error is None) else TrafficReport()
    return _gather(world, RankReport(world.rank, process, node, clock, device, folder, traffic))


def first_of_each(hosts: list[str]) -> list[int]:
    """The first rank of every host, in ascending order."""
    return sorted({host: rank for rank, host in reversed(list(enumerate(hosts)))}.values())


def now() -> float:
    """This node's time of day."""
    return time.time()


def _read_clock(world: World) -> tuple[float, ...]:
    # Ranks leave a barrier together but for a scheduler's whims: of several readings the closest counts.
    readings = []
    for _ in range(CLOCK_READINGS):
        world.barrier()
        readings.append(now())
    return tuple(readings)


def _gather(world: World, mine: Own) -> list[Own]:
    everyones: list[Any] = [None] * world.size
    dist.all_gather_object(everyones, mine, group=world.control)
    return everyones
