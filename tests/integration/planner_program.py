"""Takes real steps on every rank and reports memory, traffic and the rates of the machine.

Argument: {"config": path, "cases": [{"name", "overrides", "images", "accumulation", "steps"}]}. Each case reports the
resident memory that its steps added, and the bytes of the tensors that its last step gave to collectives.
"""

import ctypes
import gc
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed as dist

COLLECTIVES = ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor")


class Traffic:
    """Bytes of the whole tensor of each call, by function."""

    def __init__(self) -> None:
        self._sent, self._looks = Counter[str](), list[Counter[str]]()

    def watch(self, name: str) -> None:
        """Count one function's; before DeepSpeed takes it for its own."""
        original = getattr(dist, name)

        def counting(*tensors: Any, **options: Any) -> Any:
            given = [t for t in (*tensors, *options.values()) if hasattr(t, "element_size")]
            self._sent[name] += max(t.numel() * t.element_size() for t in given)
            return original(*tensors, **options)

        setattr(dist, name, counting)

    def look(self) -> float:
        """A clock for `take_steps`, which asks it before and after each step."""
        self._looks.append(Counter(self._sent))
        return 0.0

    def of_last_step(self) -> dict[str, int]:
        """Bytes by function."""
        before, after = self._looks[-2:]
        return {name: after[name] - before[name] for name in COLLECTIVES}


def main() -> None:
    traffic = Traffic()
    for name in COLLECTIVES:
        traffic.watch(name)
    from cait_dist.config import load_config  # noqa: PLC0415 - loads DeepSpeed
    from cait_dist.planning.counting.batch_plan import BatchPlan  # noqa: PLC0415
    from cait_dist.training.ranks.process_group import join  # noqa: PLC0415
    from cait_dist.training.timing.timed_step import take_steps  # noqa: PLC0415

    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(120)
    results = {}
    for case in arguments["cases"]:
        config = load_config(arguments["config"], case["overrides"]).config
        images, accumulation = case["images"], case.get("accumulation", 1)
        batches = BatchPlan(world.size * images * accumulation, world.size, images, accumulation)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        taken = take_steps(config, world, batches, 1000, case.get("steps", 1), traffic.look)
        results[case["name"]] = {
            "peak_bytes": taken.peak_bytes,
            "sent": traffic.of_last_step(),
        }
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    world.leave()


if __name__ == "__main__":
    main()
