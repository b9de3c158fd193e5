"""How long `cait compare` takes over many long runs: seconds and memory of the whole command.

    python benchmarks/compare_scale.py                                   200 runs × 50 metrics × 100,000 steps
    python benchmarks/compare_scale.py --runs 20 --steps 10000

The runs are made up, but written by the project's own `MetricsWriter`, every step a line of all metrics, as a run with
``training.log_every=1`` would. To spare the disk, only ``--distinct`` metrics files are written and the rest are hard
links to them: reading 200 of them costs the page cache less than it would, the processor all the same. The file that a
comparison reads instead of the lines is made when a run ends; ``--without-digest`` removes it from one run and times
what its absence costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.progress import track

from cait_dist.config import config_to_yaml, load_config
from cait_dist.tracking.code_version import describe_code
from cait_dist.tracking.digest import DIGEST_FILE
from cait_dist.tracking.metrics import MetricsWriter
from cait_dist.tracking.run_directory import RunDirectory, write_json

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = ("val/top1", "val/top5", "val/loss")
BEGAN = 1_750_000_000


def main() -> None:
    """Write the runs, compare them, print what it took."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        runs = _make_runs(Path(folder), options)
        results = {"with_digest": _measure(runs, Path(folder))}
        if options.without_digest:
            (runs[0] / "attempt-1" / DIGEST_FILE).unlink()
            results["one_run_without_digest"] = _measure(runs[:1], Path(folder))
    record = _record(options, results)
    print(json.dumps(record, indent=1))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _make_runs(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Two settings, and as many seeds as it takes."""
    runs: list[Path] = []
    for number in track(range(options.runs), "writing runs"):
        run = RunDirectory(folder / f"run-{number:03d}")
        attempt = run.attempt(1)
        attempt.mkdir(parents=True)
        setting, seed = number % 2, number // 2
        overrides = [f"seed={seed}", f"optimizer.lr={(1e-3, 5e-4)[setting]}", f"name={run.path.name}"]
        run.config.write_text(config_to_yaml(load_config(ROOT / "configs/cait_xxs24_224.yaml", overrides).config))
        _write_record(run, options.steps)
        if number < options.distinct:
            _write_metrics(attempt, number, options.steps, options.metrics)
        else:
            for name in ("metrics.jsonl", DIGEST_FILE):
                os.link(runs[number % options.distinct] / "attempt-1" / name, attempt / name)
        runs.append(run.path)
    return runs


def _write_record(run: RunDirectory, steps: int) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGAN))
    attempt = {"number": 1, "started": moment, "resumed_from": None, "processes": 8, "outcome": "finished"}
    write_json(run.record, {"attempts": [attempt], "total_steps": steps, "global_batch": 1024})


def _write_metrics(attempt: Path, seed: int, steps: int, metrics: int) -> None:
    draw = random.Random(seed)
    keys = ["train/loss", "perf/images_per_second", *(f"health/part_{i}" for i in range(metrics - 5))]
    writer = MetricsWriter(attempt, 0)
    for step in range(1, steps + 1):
        values = {key: draw.random() for key in keys}
        if step % max(1, steps // 300) == 0 or step == steps:
            values |= {key: 70 + draw.random() for key in EVALUATIONS}
        writer.append(step, BEGAN + step, values)
    writer.close()


def _measure(runs: list[Path], folder: Path) -> dict[str, float]:
    """The command itself, with all that it can write."""
    command = [sys.executable, "-c", "from cait_dist.cli import main; main()", "compare", *map(str, runs)]
    command += [
        "--html",
        str(folder / "page.html"),
        "--json",
        str(folder / "all.json"),
        "--csv",
        str(folder / "runs.csv"),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"cait compare ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_gb": round(usage.ru_maxrss * 1024 / 1e9, 3),
        "page_mb": round((folder / "page.html").stat().st_size / 1e6, 3),
    }


def _record(options: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", *sys.argv]),
        **describe_code(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "runs": options.runs,
        "metrics": options.metrics,
        "steps": options.steps,
        "distinct_files": min(options.distinct, options.runs),
        "results": results,
    }


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.machine()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--metrics", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=8)
    parser.add_argument("--without-digest", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the runs are written for a while")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
