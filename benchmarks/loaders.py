"""Training images per CPU-second, from JPEGs to uint8 batches: our loaders against what else is in use.

    python benchmarks/loaders.py                        everything, in about four minutes
    python benchmarks/loaders.py --sizes 448 --rounds 3

Processor time is user and system time of a pipeline's process and its worker, so it does not count what neighbours do,
and images per CPU-second are what one core sustains. Images come from the page cache: storage is not measured.

Every pipeline lives in a process of its own from the beginning to the end, so that starting and compiling are done
before the first measurement. It is measured between two moments at which all its batches ahead are ready and it rests;
in between, it must make as many batches as are taken. In every round the pipelines take turns, and a ratio is the
median over rounds of ratios within a round, so that a slow minute harms all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib import metadata
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.multiprocessing as mp

from cait_dist.tracking.code_version import describe_code
from parts.circumstances import processor
from parts.loaders.images import DataSet, make_data_set, warm_page_cache
from parts.loaders.peers import BATCH, PIPELINES

ROOT = Path(__file__).resolve().parents[1]
BASELINE, FLOOR = next(iter(PIPELINES)), "bare loop"
_REST_SECONDS = 0.1
_REST_SHARE = 0.2
_WARM_UP_BATCHES = 3
_PACKAGES = ("torch", "torchvision", "pillow", "simplejpeg", "webdataset", "ffcv", "numpy")


class Runner:
    """A pipeline in a process of its own."""

    def __init__(self, name: str, data: DataSet, size: int) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Not daemonic: such a process could have no workers of its own.
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs, name, data, size))
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> str | None:
        """Why it cannot be measured; None if it can."""
        problem = self._pipe.recv()
        if problem is None:
            self._take(_WARM_UP_BATCHES)
        return problem

    def images_per_cpu_second(self, batches: int) -> float:
        """Take that many batches and see what they cost."""
        began = self._cpu_at_rest()
        self._take(batches)
        return batches * BATCH / (self._cpu_at_rest() - began)

    def close(self) -> None:
        """End it, by its own hand if it will."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _take(self, batches: int) -> None:
        self._pipe.send(batches)
        self._pipe.recv()

    def _cpu_at_rest(self) -> float:
        """CPU-seconds of the process and its workers, once they have nothing left to do."""
        resting, before = 0, self._cpu()
        while resting < 2:
            time.sleep(_REST_SECONDS)
            now = self._cpu()
            resting = resting + 1 if now - before <= _REST_SHARE * _REST_SECONDS else 0
            before = now
        return before

    def _cpu(self) -> float:
        main = psutil.Process(self._process.pid)
        return sum(sum(process.cpu_times()[:2]) for process in (main, *main.children(recursive=True)))


def _serve(pipe: Connection, name: str, data: DataSet, size: int) -> None:
    """Life of a pipeline's process: make it, then take batches when told."""
    torch.set_num_threads(1)
    mp.set_start_method("fork", force=True)  # for workers; this process itself was spawned, which would be inherited
    try:
        batches = PIPELINES[name].open(data, size)
        _check(next(batches), size)
    except ImportError as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    try:
        while True:
            for _ in range(pipe.recv()):
                next(batches)
            pipe.send("done")
    except (EOFError, ConnectionResetError):
        return


def _check(batch: Any, size: int) -> None:
    if batch.dtype != torch.uint8 or batch.numel() != BATCH * 3 * size * size:
        raise ValueError(f"a batch must be {BATCH} uint8 images of {size} pixels, got {batch.dtype} {batch.shape}")


def main() -> None:
    """Measure, print a table, write JSON and a plot."""
    options = _parse()
    with ExitStack() as stack:
        root = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loaders-")))
        data = make_data_set(root, options.images, os.cpu_count() or 1)
        kilobytes = warm_page_cache(data)
        print(f"{options.images} JPEGs of {kilobytes:.0f} kB, batches of {BATCH}, one worker each", flush=True)
        rows = [row for size in options.sizes for row in _compare(data, size, options)]
    report = _circumstances() | {"images": options.images, "mean_kilobytes": round(kilobytes, 1), "results": rows}
    _write(options.out, json.dumps(report, indent=1) + "\n")
    if options.plot:
        from parts.loaders.picture import draw  # noqa: PLC0415 - needs matplotlib

        _write(options.plot, draw(rows, report["hardware"]))


def _compare(data: DataSet, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        runners = dict(_start(stack, data, size))
        for _ in range(options.rounds):
            for name, runner in runners.items():
                rates.setdefault(name, []).append(runner.images_per_cpu_second(options.batches))
    rows = [_row(name, size, rates) for name in rates]
    for row in rows:
        low, high = min(row["images_per_cpu_second"]), max(row["images_per_cpu_second"])
        print(
            f"{size} px  {row['title']:34} {row['median']:6.0f} images per CPU-second ({low:.0f} to {high:.0f})"
            f"   ours from tar is {row['times_slower_than_ours']:5.2f} x as fast",
            flush=True,
        )
    return rows


def _start(stack: ExitStack, data: DataSet, size: int) -> Iterator[tuple[str, Runner]]:
    started = {}
    for name in PIPELINES:
        started[name] = Runner(name, data, size)
        stack.callback(started[name].close)
    for name, runner in started.items():
        if (problem := runner.wait_until_ready()) is None:
            yield name, runner
        else:
            print(f"{size} px  {PIPELINES[name].title:34} left out: {problem}", flush=True)


def _row(name: str, size: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [ours / theirs for ours, theirs in zip(rates[BASELINE], rates[name], strict=True)]
    return {
        "size": size,
        "pipeline": name,
        "title": PIPELINES[name].title,
        "ours": PIPELINES[name].ours,
        "floor": name == FLOOR,
        "median": round(statistics.median(rates[name]), 1),
        "images_per_cpu_second": [round(rate, 1) for rate in rates[name]],
        "times_slower_than_ours": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _circumstances() -> dict[str, Any]:
    return {
        "command": shlex.join(["python", *sys.argv]),
        **describe_code(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": processor(),
        "python": platform.python_version(),
        "versions": {name: _version_of(name) for name in _PACKAGES},
        "load_average": os.getloadavg(),
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448], help="sides of the images in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="taken from each pipeline in a round")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--data", type=Path, help="folder to keep the images in; default: a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loaders.json", help="write JSON here")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/images/loaders.svg", help="write the plot here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
