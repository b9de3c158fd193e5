"""What a node does while it trains: one sampler on each, in the process of its first rank.

It appends to ``attempt-K/system-NODE.jsonl``, a line for each sample: ``{"time": …, "second": 20,
"cpu_utilization_percentage": 93.1, …}``. The second counts from the beginning of the run, over all its attempts: MLflow
needs whole numbers that only grow. Names are MLflow's own where it has some.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from .gpu_sampler import MEGABYTE, GpuSampler
from .run_directory import RunDirectory

MOST_IN_A_BATCH = 500
PREFIX, SUFFIX = "system-", ".jsonl"
_GPU = re.compile(r"gpu_\d+_(.*)")
_OVER_GPUS: dict[str, Callable[[list[float]], float]] = {"utilization_percentage": fmean, "power_usage_watts": sum}
STOP_SECONDS = 0.2
"""How long the end of training waits for a sample at hand; a driver or a file system may hang."""


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """This node, as SLURM and people call it, in letters that MLflow takes."""
    name = environment.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


@contextmanager
def sampling(run: RunDirectory, attempt: int, seconds: float | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Sample this node while the block runs.

    Args:
        run: whose record holds its beginning
        attempt: whose directory the samples go to
        seconds: between samples; 0 or None for none
        tell: shows a line to the user
    """
    if not seconds:
        yield
        return
    sampler = SystemSampler(run, attempt, seconds, tell)
    try:
        yield
    finally:
        sampler.stop()


class SystemSampler:
    """The background thread; whatever happens in it costs a line to the user, never the training."""

    def __init__(self, run: RunDirectory, attempt: int, seconds: float, tell: Callable[[str], None]) -> None:
        self._run, self._seconds, self._tell = run, seconds, tell
        self._file = run.attempt(attempt) / f"{PREFIX}{node_name()}{SUFFIX}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; a sample at hand is waited for, but not long."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _work(self) -> None:
        try:
            began = run_began(self._run)
            source = NodeSource(self._run.path, self._tell)
            # Unbuffered: a line is one write, so that readers and a killed process find it whole.
            with self._file.open("ab", buffering=0) as file:
                while not self._stop.wait(self._seconds):
                    now = time.time()
                    row = {"time": round(now, 3), "second": max(0, int(now - began)), **source.read()}
                    file.write(json.dumps(row).encode() + b"\n")
        except Exception as error:  # a node without /proc, a full disk, a driver's fault: metrics matter less
            self._tell(f"note: no more system metrics of {node_name()}: {error}")


class NodeSource:
    """Reads one sample. Counters are told as rates since the sample before.

    Args:
        place: folder whose disk is watched
        tell: shows a line to the user, for what cannot be read
    """

    def __init__(self, place: Path, tell: Callable[[str], None]) -> None:
        self._place = place
        self._psutil, self._gpus = _load_psutil(tell), _load_gpus(tell)
        if self._psutil is not None:
            self._psutil.cpu_percent(percpu=True)
            self._network = self._traffic()

    def read(self) -> dict[str, float]:
        """The values by name."""
        values = self._gpus.read() if self._gpus else {}
        if self._psutil is not None:
            values |= self._processor() | self._rates()
        disk = shutil.disk_usage(self._place)
        values["disk_usage_percentage"] = 100.0 * disk.used / disk.total
        values["disk_available_megabytes"] = disk.free / MEGABYTE
        return {name: round(value, 3) for name, value in values.items()}

    def _processor(self) -> dict[str, float]:
        shares = self._psutil.cpu_percent(percpu=True)
        own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
        # On a node that several jobs share, what the others do with their cores does not matter.
        mine = [shares[number] for number in own if number < len(shares)] or shares
        memory = self._psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": sum(mine) / len(mine),
            "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
        }

    def _rates(self) -> dict[str, float]:
        before, self._network = self._network, self._traffic()
        seconds = max(1e-3, self._network[0] - before[0])
        return {
            "network_receive_megabytes_per_second": max(0.0, self._network[1] - before[1]) / MEGABYTE / seconds,
            "network_transmit_megabytes_per_second": max(0.0, self._network[2] - before[2]) / MEGABYTE / seconds,
        }

    def _traffic(self) -> tuple[float, int, int]:
        counters = self._psutil.net_io_counters(pernic=True)
        outside = [counter for name, counter in counters.items() if name != "lo"]
        return time.monotonic(), sum(c.bytes_recv for c in outside), sum(c.bytes_sent for c in outside)


def _load_psutil(tell: Callable[[str], None]) -> Any:
    try:
        import psutil  # noqa: PLC0415
    except ImportError:
        tell("note: no system metrics but the disk's and the GPUs': pip install psutil")
        return None
    return psutil


def _load_gpus(tell: Callable[[str], None]) -> GpuSampler | None:
    if not Path("/proc/driver/nvidia/version").exists() and not Path("/dev/nvidiactl").exists():
        return None  # nothing is missing
    try:
        import pynvml  # noqa: PLC0415

        return GpuSampler(os.environ, pynvml)
    except ImportError:
        tell("note: no system metrics of the GPUs: pip install nvidia-ml-py")
    except Exception as error:
        tell(f"note: no system metrics of the GPUs: {error}")
    return None


def run_began(run: RunDirectory) -> float:
    """When the run's first attempt was started, in seconds since the epoch; for a run that has none, now."""
    attempts = run.read_record()["attempts"]
    started = attempts[0].get("started") if attempts else None
    return calendar.timegm(time.strptime(started, "%Y-%m-%dT%H:%M:%SZ")) if started else time.time()


def read_samples(run: RunDirectory) -> dict[str, list[dict[str, float]]]:
    """All samples that count, by node, their seconds ascending."""
    return _samples_after(run, {})[0]


def send_system_metrics(run: RunDirectory, client: Any, run_id: str, cursor: Mapping[str, Any]) -> dict[str, Any]:
    """Send the samples that MLflow lacks, as ``system/NODE/…``; of a node's GPUs together, as it shows few curves well.

    Args:
        run: the directory
        client: MLflow's, open
        run_id: of the MLflow run
        cursor: what the last call returned, or an empty one; plain JSON

    Returns:
        the cursor for the next call; samples are never sent twice as long as it is kept
    """
    from mlflow.entities import Metric  # noqa: PLC0415

    samples, new_cursor = _samples_after(run, cursor)
    metrics = [
        Metric(f"system/{node}/{name}", value, int(row["time"] * 1000), int(row["second"]))
        for node, rows in samples.items()
        for row in rows
        for name, value in together(row).items()
        if name not in ("time", "second")
    ]
    for start in range(0, len(metrics), MOST_IN_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_IN_A_BATCH], synchronous=True)
    return new_cursor


def together(row: Mapping[str, float]) -> dict[str, float]:
    """A sample with one value for all of the node's GPUs: mean load, the fullest, the warmest, power in all."""
    values = {name: value for name, value in row.items() if not _GPU.match(name)}
    by_kind: dict[str, list[float]] = {}
    for name, value in row.items():
        if found := _GPU.match(name):
            by_kind.setdefault(found[1], []).append(value)
    return values | {f"gpu_{kind}": _OVER_GPUS.get(kind, max)(found) for kind, found in by_kind.items()}


def _samples_after(
    run: RunDirectory, cursor: Mapping[str, Any]
) -> tuple[dict[str, list[dict[str, float]]], dict[str, Any]]:
    """Read on in every file from where the cursor stands; returns the samples, and where it stands now."""
    offsets, seconds = dict(cursor.get("offsets", {})), dict(cursor.get("seconds", {}))
    found: dict[str, list[dict[str, float]]] = {}
    for attempt in run.attempts():
        for file in sorted(attempt.glob(f"{PREFIX}*{SUFFIX}")):
            node, key = file.name[len(PREFIX) : -len(SUFFIX)], f"{attempt.name}/{file.name}"
            rows, offsets[key] = _read_on(file, offsets.get(key, 0))
            for row in rows:
                # Clocks may be set back, and an attempt that was lost may still be at work beside the next.
                if row["second"] > seconds.get(node, -1):
                    seconds[node] = row["second"]
                    found.setdefault(node, []).append(row)
    return found, {"offsets": offsets, "seconds": seconds}


def _read_on(file: Path, offset: int) -> tuple[list[dict[str, float]], int]:
    with file.open("rb") as content:
        content.seek(offset)
        whole, newline, _ = content.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.split(b"\n") if line], offset + len(whole) + len(newline)
