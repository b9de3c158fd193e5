"""Checks the cluster again and again, each time with something wrong on one rank, and reports what every rank was told.

Arguments: {"folder", "apart": another folder}. A node is whatever SLURMD_NODENAME says, so that ranks of one machine
can play several nodes; what is broken is broken by replacing the smallest function that does it.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from cait_dist.training.ranks.process_group import World, join
from launch.check import ClusterCheckError, Limits, check_cluster, collective, measure, shared_folder, traffic

Fault = Callable[[], AbstractContextManager[Any]]


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(60)
    folder, apart = Path(arguments["folder"]), Path(arguments["apart"])
    unwritable = folder / "a-file"
    shared_folder.PATIENCE_SECONDS = 1.0
    results = {
        "healthy": check(world, folder),
        "two by two": check(world, folder, nodes=2),
        "slow": check(world, folder, {2: lambda: patch.object(measure, "multiply", slowly(measure.multiply))}),
        "wrong": check(world, folder, {1: lambda: patch.object(measure, "multiply", wrongly)}),
        "broken": check(world, folder, {1: lambda: patch.object(measure, "multiply", not_at_all)}),
        "slow link": check(world, folder, {3: lambda: patch.object(traffic, "swap", slowly(traffic.swap))}),
        "clock": check(world, folder, {1: lambda: patch.object(collective, "now", lambda: time.time() - 60)}),
        "wrong sum": check(world, folder, {2: lambda: patch.object(traffic, "add_up", add_up_wrongly)}),
        "apart": check(world, apart if world.rank == 3 else folder),
        "absent": check(world, folder / "nowhere" if world.rank >= 2 else folder, nodes=2),
        "unwritable": check(world, unwritable),
        "no mlflow": check(world, folder, tracking_uri="http://127.0.0.1:9"),
    }
    traffic.PATIENCE_SECONDS = 2.0
    results["silent"] = check(world, folder, {3: lambda: patch.object(traffic, "add_up", lambda _: time.sleep(600))})
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    os._exit(0)  # threads still wait for the silent rank


def check(
    world: World, folder: Path, faults: dict[int, Fault] | None = None, nodes: int = 4, tracking_uri: str | None = None
) -> list[dict[str, Any]]:
    """What every rank was told, by rank."""
    os.environ["SLURMD_NODENAME"] = f"n{world.rank * nodes // world.size}"
    random_numbers, began, said = torch.get_rng_state(), time.monotonic(), list[str]()
    error = None
    with (faults or {}).get(world.rank, contextlib.nullcontext)():
        try:
            check_cluster(world, folder, Limits(), said.append, tracking_uri)
        except ClusterCheckError as refused:
            error = str(refused)
    told = {
        "error": error,
        "said": said,
        "seconds": time.monotonic() - began,
        "random_numbers_kept": torch.equal(random_numbers, torch.get_rng_state()),
    }
    everyones: list[Any] = [None] * world.size
    dist.all_gather_object(everyones, told, group=world.control)
    return everyones


def slowly(action: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        # In proportion, too: on a busy machine all others are slow.
        began = time.perf_counter()
        result = action(*arguments)
        time.sleep(0.1 + 4 * (time.perf_counter() - began))
        return result

    return slow


def wrongly(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    product = left @ right
    product[700, 123] += 1
    return product


def not_at_all(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nand many more lines")


def add_up_wrongly(values: torch.Tensor) -> None:
    dist.all_reduce(values)
    values[5] += 1


if __name__ == "__main__":
    main()
