"""What the trainer costs besides forward pass, backward pass and optimizer: `cait train` against a bare loop.

    python benchmarks/trainer_overhead.py                           everything on; and all of it off, to compare
    python benchmarks/trainer_overhead.py --pairs 100 --out benchmarks/results/trainer_overhead.json

A run on handwritten digits, with a network so wide and batches so large that a step takes as long as a real one. The
rank's own program runs in one process, with its heartbeat, its sampler of the node, metrics, moving average, looks at
the weights, a watch for spikes of the loss, and MLflow in a database. Before each of its steps, the same engine makes a
bare one: of the same data, in the same order, read and augmented beforehand, with nothing around the passes and the
update. Steps of both kinds therefore alternate, and every slow minute harms both.

Two numbers come of it. ``outside`` is the time of a step that is spent outside of forward, backward and update, as a
share of the bare step: it is precise, as it is a small time measured by itself. ``beyond_bare`` is how much longer the
whole step takes than the bare ones around it, which includes what is slowed down from afar, and the noise of a
machine: the run with all of it switched off shows how much of that there is. Steps that log and steps that look at
the weights are told apart, and weighted by how often they come: by default, and where every step is logged.

By processor time of one thread, which does not count what neighbours do; by the clock on the wall besides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from parts.circumstances import circumstances

ROOT = Path(__file__).resolve().parents[1]
CAIT = (sys.executable, "-c", "from cait_dist.cli import main; main()")
LOG_EVERY, HEALTH_EVERY = 2, 10
"""In the measured run, so that there are enough steps of every kind."""
SCHEDULES = {"as by default": (10, 100), "every step logged": (1, 100)}
"""Steps between two that log, and between two that look at the weights."""
IMAGES, BATCH = 1438, 64

MODEL = {"model.embed_dim": 192, "model.depth": 12, "model.drop_path_rate": 0.05}
ON = {
    "training.log_every": LOG_EVERY,
    "training.health_every": HEALTH_EVERY,
    "training.ema_decay": 0.9999,
    "training.rollback.spike": 50,
    "tracking.mlflow": True,
}
OFF = {
    "training.log_every": 10**6,
    "training.health_every": None,
    "training.ema_decay": None,
    "training.rollback.at_most": 0,
    "tracking.mlflow": False,
    "tracking.system_seconds": None,
    "evaluation.weights": ["raw"],
}
NEVER = {"training.checkpoint.every_epochs": None, "evaluation.every_epochs": 10**6}


def main() -> None:
    """Measure, print, write JSON."""
    options = parse()
    if options.run:
        from parts.trainer.overhead_run import train_and_measure  # noqa: PLC0415 - loads the whole trainer

        torch.set_num_threads(1)
        options.out.write_text(json.dumps(train_and_measure(*options.run)))
        return
    record: dict[str, Any] = circumstances(torch.device("cpu"), 1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([*CAIT, "prep", "digits", "--out", place / "digits", "--image-size", "24"], check=True)
        for name, settings in (("everything on", ON), ("all off", OFF)):
            record[name] = found = _run(place, name.replace(" ", "-"), settings, options)
            print(f"{name}: a bare step takes {found['bare_cpu_seconds']:.2f} s of a processor", flush=True)
            for schedule, shares in found["schedules"].items():
                told = ", ".join(f"{key} {share:+.2%}" for key, share in shares.items())
                print(f"  {schedule}: {told}", flush=True)
            for part, cost in found["parts"].items():
                print(f"    {part:28} {1e3 * cost:8.2f} ms a time, {cost / found['bare_cpu_seconds']:.2%} of a step")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _run(place: Path, name: str, settings: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A run in a process of its own, and what its steps say."""
    more = {**MODEL, **NEVER, **settings, "data.path": place / "digits", "runs_dir": place / "runs", "name": name}
    more |= {"training.epochs": (options.pairs + 0.5) * BATCH / IMAGES, "schedule.warmup_epochs": 0}
    overrides = [*overrides_of(more), *options.overrides]
    out = place / f"{name}.json"
    command = [sys.executable, __file__, "--out", str(out), "--run", str(ROOT / "configs/digits.yaml"), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "LOCAL_RANK": "0"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    raw = json.loads(out.read_text())
    return summarise(raw) | {"parts": raw["parts"], "steps": raw["steps"]}


def overrides_of(settings: dict[str, Any]) -> list[str]:
    """As they are typed on a command line."""
    return [f"{key}={value if isinstance(value, Path) else json.dumps(value)}" for key, value in settings.items()]


def summarise(raw: dict[str, Any]) -> dict[str, Any]:
    """Shares by schedule, from the steps of a run.

    Args:
        raw: ``steps``, each with its ``kind`` (plain, logged, health) and ``cpu``, ``wall`` and ``inside`` seconds of
            the trainer's step, and ``bare_cpu`` and ``bare_wall`` of the bare step before it
    """
    steps = raw["steps"][1:-1]  # the first warms up
    bare = {clock: statistics.median(step[f"bare_{clock}"] for step in steps) for clock in ("cpu", "wall")}
    by_kind: dict[str, dict[str, list[float]]] = {}
    for step, following in pairwise(steps):
        found = by_kind.setdefault(step["kind"], {"outside": [], "beyond_bare": [], "beyond_bare_wall": []})
        found["outside"].append((step["cpu"] - step["inside"]) / bare["cpu"])
        for clock, key in (("cpu", "beyond_bare"), ("wall", "beyond_bare_wall")):
            around = (step[f"bare_{clock}"] + following[f"bare_{clock}"]) / 2
            found[key].append(step[clock] / around - 1)
    kinds = {kind: {key: statistics.median(found[key]) for key in found} for kind, found in by_kind.items()}
    return {
        "bare_cpu_seconds": bare["cpu"],
        "bare_wall_seconds": bare["wall"],
        "kinds": {kind: {**kinds[kind], "steps": len(by_kind[kind]["outside"])} for kind in kinds},
        "schedules": {name: _weigh(kinds, *every) for name, every in SCHEDULES.items()},
    }


def _weigh(kinds: dict[str, dict[str, float]], log_every: int, health_every: int) -> dict[str, float]:
    """The mean over steps of all kinds; a step that looks at the weights also logs."""
    health = 1 / health_every if "health" in kinds else 0.0
    logged = 1 / log_every - health if "logged" in kinds else 0.0
    weights = {"health": health, "logged": max(0.0, logged)}
    weights["plain"] = 1 - sum(weights.values())
    mean: dict[str, float] = {}
    for kind, shares in kinds.items():
        for key, share in shares.items():
            mean[key] = mean.get(key, 0.0) + weights[kind] * share
    return mean


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="steps of the trainer, and as many bare ones")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--overrides", nargs="+", default=[], help="further settings of the runs")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)  # the configuration of a process of its own
    return parser.parse_args()


if __name__ == "__main__":
    main()
