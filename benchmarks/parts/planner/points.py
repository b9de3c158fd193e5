"""The points at which benchmarks/planner.py holds the planner against real steps, and the process that takes them."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CONFIG = """
name: planner
data: {path: nowhere, workers: 0}
augment: {mixup: 0.0, cutmix: 0.0}
training: {global_batch: 8, ema_decay: 0.9999}
evaluation: {weights: [raw]}
"""
CONFIG_FILE = "planner.yaml"
CALIBRATION = "calibration.json"
CLASSES = 1000


@dataclass(frozen=True)
class Point:
    """A configuration.

    Attributes:
        model: variant and resolution.
        precision: ``fp32`` or ``bf16``.
        stage: of ZeRO.
        policy: of recomputation.
        images: micro-batch.
        ranks: processes.
        extra: further settings.
    """

    model: str
    precision: str
    stage: int
    policy: str
    images: int
    ranks: int = 1
    extra: tuple[str, ...] = field(default=())

    @property
    def overrides(self) -> list[str]:
        """As on the command line."""
        return [
            f"model.name={self.model}",
            f"training.precision={self.precision}",
            f"training.zero.stage={self.stage}",
            f"training.activation_checkpointing={self.policy}",
            *self.extra,
        ]


MEMORY = (
    Point("cait_xxs24_224", "fp32", 0, "none", 8),
    Point("cait_xxs36_224", "bf16", 0, "none", 6),
    Point("cait_xxs24_384", "bf16", 1, "attention", 4),
    Point("cait_xs24_224", "bf16", 2, "block", 4, ranks=2),
    Point("cait_s24_224", "fp32", 2, "none", 2, ranks=2),
    Point("cait_s24_224", "bf16", 3, "every-2", 4, ranks=2),
    Point("cait_s24_384", "fp32", 1, "block", 1),
    Point("cait_xxs24_224", "fp32", 0, "none", 16, extra=("model.image_size=160",)),
)
TIME = (
    Point("cait_xxs24_224", "fp32", 0, "none", 4),
    Point("cait_xxs36_224", "fp32", 0, "none", 4, extra=("model.drop_path_rate=0.25",)),
    Point("cait_xs24_224", "fp32", 1, "block", 4),
    Point("cait_xxs24_384", "fp32", 2, "attention", 2),
    Point("cait_s24_224", "fp32", 0, "none", 2, extra=("model.depth=12",)),
    Point("cait_s24_224", "fp32", 3, "none", 2, extra=("model.depth=12",)),
    Point("cait_xxs24_224", "bf16", 1, "none", 4),
    Point("cait_xxs24_384", "bf16", 2, "attention", 2),
    Point("cait_s24_224", "bf16", 0, "none", 2, extra=("model.depth=12",)),
)


def load(point: Point, folder: Path, *more: str) -> Any:
    """The configuration of a point; its file was written before any rank began."""
    from cait_dist.config import load_config  # noqa: PLC0415

    return load_config(folder / CONFIG_FILE, [*point.overrides, *more]).config


def measure_memory(point: Point, folder: Path) -> dict[str, Any] | None:
    """On every rank: a small step that loads all code, then the point; rank 0 tells what its steps added."""
    from cait_dist.planning.counting.batch_plan import BatchPlan  # noqa: PLC0415
    from cait_dist.training.ranks.process_group import join  # noqa: PLC0415
    from cait_dist.training.timing.timed_step import take_steps  # noqa: PLC0415

    world = join(600)
    batches = BatchPlan(point.images * world.size, world.size, point.images, 1)
    small = BatchPlan(2 * world.size, world.size, 2, 1)
    take_steps(load(point, folder, "model.image_size=64", "model.depth=2"), world, small, CLASSES, 1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    taken = take_steps(load(point, folder), world, batches, CLASSES, 1)
    world.barrier()
    world.leave()
    return {"measured_bytes": taken.peak_bytes} if world.is_main else None


def measure_time(point: Point, folder: Path, seconds: float, steps: int) -> dict[str, Any]:
    """Rates at the point's shapes, and its real step."""
    from cait_dist.planning.rates.calibration import add_to_file  # noqa: PLC0415
    from cait_dist.training.timing.bench_step import bench_step  # noqa: PLC0415

    found = bench_step(load(point, folder), point.images, seconds, steps)
    add_to_file(found.calibration, folder / CALIBRATION)
    return {
        "measured_seconds": found.measured,
        "predicted_seconds": found.predicted.total,
        "parts": asdict(found.predicted),
        "clock": found.calibration.clock,
    }


def main() -> None:
    """Arguments: kind of measurement, the point as JSON, a folder, and more as JSON."""
    kind, text, folder, more = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
    content = json.loads(text)
    point = Point(**(content | {"extra": tuple(content["extra"])}))
    measure: Any = {"memory": measure_memory, "time": measure_time}[kind]
    if (found := measure(point, folder, **more)) is not None:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
