"""Does a plan come true? Counted memory and predicted time of a step, against real steps on this machine.

    OMP_NUM_THREADS=1 python benchmarks/planner.py --out benchmarks/results/planner.json
    OMP_NUM_THREADS=1 python benchmarks/planner.py --only memory
    python benchmarks/planner.py                            on a GPU, if there is one

Memory: the most that a fresh process grows by over a step of `cait train`'s own engine, in resident memory, or on a GPU
in that of torch's allocator, beside what `cait plan` counts for such a device. Points of more ranks than there are GPUs
are left out. Time: `cait bench step` at a configuration's shapes and micro-batch, then its real step;
with one thread in seconds of the processor, which other work on the machine enters little. And from the rates of all
*other* configurations, which is what a plan does for shapes that were never measured. A shared machine is slower at
times, for the rates or for the step: so all of it is done three times, and the middle counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from cait_dist.models import architecture
from cait_dist.planning.counting.activation_memory import count_activations
from cait_dist.planning.counting.flops import count_params
from cait_dist.planning.counting.numerics import numerics
from cait_dist.planning.counting.state_memory import ZeroSetting, coming_up, count_state
from cait_dist.planning.options import likely_backend
from cait_dist.planning.rates.calibration import Calibration, load_calibration
from cait_dist.tracking.code_version import describe_code
from cait_dist.training.timing.bench_step import predict_alone
from launch.local import rank_environment
from parts.circumstances import processor
from parts.planner.points import CALIBRATION, CLASSES, CONFIG, CONFIG_FILE, MEMORY, TIME, Point, load

PROGRAM = Path(__file__).with_name("parts") / "planner/points.py"
TIMEOUT = 900
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MALLOC = {"memory": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}, "time": {}}
"""Where memory is measured glibc returns what is freed at once, so that resident is what is in use. That costs time:
each array is fetched from the system page by page."""


def main() -> None:
    """Measure and print."""
    options = _options()
    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        **describe_code(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": processor(),
        "load_average": os.getloadavg(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CONFIG_FILE).write_text(CONFIG)
        if options.only in (None, "memory"):
            record["memory"] = [_say(memory_row(point, folder)) for point in MEMORY if _has_devices(point)]
        if options.only in (None, "time"):
            points = [point for point in TIME if point.precision in options.precisions]
            runs = [time_rows(points, folder, options.seconds, options.steps) for _ in range(options.repeats)]
            record["time"] = [_say(middle(rows)) for rows in zip(*runs, strict=True)]
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {options.out}")


def memory_row(point: Point, folder: Path) -> dict[str, Any]:
    """One point, counted and measured."""
    found = run(point, "memory", folder, {})
    counted = counted_bytes(point, folder)
    return {
        **asdict(point),
        "counted_bytes": round(counted),
        **found,
        "ratio": round(counted / found["measured_bytes"], 3),
    }


def counted_bytes(point: Point, folder: Path) -> float:
    """What the planner says."""
    config = load(point, folder)
    width = numerics(config.training.precision, point.stage)
    arch = architecture(config.model.name, num_classes=CLASSES, **config.model.overrides)
    zero = ZeroSetting(point.stage, point.ranks, config.training.zero.bucket_size, device=DEVICE)
    backend, gradient = likely_backend(arch, DEVICE), coming_up(width, zero)
    activations = count_activations(arch, width, point.policy, backend, DEVICE, gradient)
    return count_state(count_params(arch).total, width, zero).peak(activations.peak(point.images))


def _has_devices(point: Point) -> bool:
    gpus = torch.cuda.device_count()
    if DEVICE == "cpu" or point.ranks <= gpus:
        return True
    print(f"{point.model} at stage {point.stage} is left out: it needs {point.ranks} GPUs, here are {gpus}")
    return False


def time_rows(points: list[Point], folder: Path, seconds: float, steps: int) -> list[dict[str, Any]]:
    """All points, each measured, predicted from its own rates, and from those of all others."""
    (folder / CALIBRATION).unlink(missing_ok=True)
    rows = [_say(time_row(point, folder, seconds, steps)) for point in points]
    rates = load_calibration(folder / CALIBRATION)
    return [with_foreign(row, point, rates, folder) for row, point in zip(rows, points, strict=True)]


def middle(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Of a point's repeats the one in the middle, and what the others came to."""
    ordered = sorted(rows, key=lambda row: row["ratio"])
    foreign = statistics.median(row["foreign_ratio"] for row in rows)
    return {**ordered[len(rows) // 2], "foreign_ratio": foreign, "ratios": [row["ratio"] for row in ordered]}


def time_row(point: Point, folder: Path, seconds: float, steps: int) -> dict[str, Any]:
    """One point, measured and predicted from its own rates."""
    found = run(point, "time", folder, {"seconds": seconds, "steps": steps})
    return {**asdict(point), **found, "ratio": round(found["predicted_seconds"] / found["measured_seconds"], 3)}


def with_foreign(row: dict[str, Any], point: Point, rates: Calibration, folder: Path) -> dict[str, Any]:
    """And predicted from the rates of all others."""
    config = load(point, folder)
    arch = architecture(config.model.name, num_classes=CLASSES, **config.model.overrides)
    seconds = predict_alone(config, arch, without_shapes(rates, arch.embed_dim, arch.num_patches), point.images).total
    return {**row, "foreign_seconds": seconds, "foreign_ratio": round(seconds / row["measured_seconds"], 3)}


def without_shapes(calibration: Calibration, dim: int, tokens: int) -> Calibration:
    """A calibration that has never seen a network of this width, nor images with so many patches of it."""
    rates = {
        kind: replace(
            found,
            products=tuple(p for p in found.products if dim not in (p.inner, p.outer)),
            attention=tuple(a for a in found.attention if (a.heads * a.head_dim, a.tokens) != (dim, tokens)),
            bare=tuple(step for step in found.bare if step.dim != dim),
        )
        for kind, found in calibration.rates.items()
    }
    return replace(calibration, rates=rates)


def run(point: Point, kind: str, folder: Path, more: dict[str, Any]) -> dict[str, Any]:
    """In fresh processes, one for each rank."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(PROGRAM), kind, json.dumps(asdict(point)), str(folder), json.dumps(more)],
                env={**os.environ, **MALLOC[kind], **rank_environment(rank, point.ranks, listener)},
                stdout=subprocess.DEVNULL,
                stderr=(folder / f"rank-{rank}.log").open("wb"),
                pass_fds=(listener.fileno(),) if rank == 0 else (),
            )
            for rank in range(point.ranks)
        ]
        try:
            failed = _failed(ranks)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
    if failed:
        sys.exit((folder / f"rank-{failed[0]}.log").read_text()[-3000:])
    return dict(json.loads((folder / "found.json").read_text()))


def _failed(ranks: list[subprocess.Popen[bytes]]) -> list[int]:
    """Those that failed first, or are not done in time; none, when all are done."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        states = [process.poll() for process in ranks]
        if all(state == 0 for state in states) or any(states):
            return [rank for rank, state in enumerate(states) if state]
        time.sleep(0.1)
    return [rank for rank, process in enumerate(ranks) if process.poll() is None]


def _say(row: dict[str, Any]) -> dict[str, Any]:
    setting = f"{row['model']}, {row['precision']}, stage {row['stage']}, {row['policy']}, {row['images']} images"
    setting += f" on {row['ranks']} ranks" if row["ranks"] > 1 else ""
    setting += "".join(f", {extra}" for extra in row["extra"])
    if "counted_bytes" in row:
        numbers = f"counted {row['counted_bytes'] / 1e6:,.0f} MB, took {row['measured_bytes'] / 1e6:,.0f} MB"
    else:
        numbers = f"predicted {row['predicted_seconds']:.3f} s, took {row['measured_seconds']:.3f} s"
    foreign = (
        f" ({row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}); from others' rates {row['foreign_ratio']:.2f}"
        if "foreign_ratio" in row
        else ""
    )
    print(f"{setting}: {numbers}, ratio {row['ratio']:.2f}{foreign}", flush=True)
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("memory", "time"), help="leave the other out")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=("fp32", "bf16"), help="whose times; default: both"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="to spend on each rate; default: 1")
    parser.add_argument("--steps", type=int, default=5, help="steps of each kind that are timed; default: 5")
    parser.add_argument("--repeats", type=int, default=3, help="of all times; the middle one counts; default: 3")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
