"""What a run adds to the peak of memory: activations, gradients and workspace, but not weights and optimizer state.

On a CPU the operating system counts, per process and for everything that it does, so every contender gets a process of
its own; the peak is set back to what is in use just before the run (Linux, ``/proc/self/clear_refs``). There every
array from 64 KiB on has pages of its own, which it gives back: what counts is what is in use, as on a GPU, and not the
holes between. The C library's own habit, to keep and fill them as they come, adds about 90 MiB to a step of XXS24, ours
or timm's; ``MALLOC_MMAP_THRESHOLD_=33554432`` in the environment measures with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from parts.timing import Contender, Manner, clear, measure, reason, time_limit, work

LONGEST = 900
"""Seconds that a fresh process may take."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SET_PEAK_BACK = "5"


def grow_here(make: Callable[[], Contender], manner: Manner) -> dict[str, Any]:
    """Growth of the peak by one run in this process, after one that warms up.

    Returns:
        ``growth_bytes``, on top of ``before_bytes``, or ``failed``
    """
    try:
        contender = make()
        with time_limit(manner.first_seconds):
            for _ in range(contender.warm_ups):
                work(contender, manner)
        clear(contender)
        if manner.device.type == "cuda":
            _, peak, growth = measure(contender, manner)
            return {"growth_bytes": growth, "before_bytes": peak - growth}
        return _grow_on_the_host(contender, manner)
    except Exception as error:  # whatever a compiler or a driver may raise
        return {"failed": reason(error)}


def measure_in_fresh_processes(kind: str, names: Iterable[str], precision: str) -> dict[str, dict[str, Any]]:
    """Have this program measure each of these contenders in a process of its own, with the same command line."""
    return {name: _ask([*sys.argv, "--kind", kind, "--memory-of", name, "--precisions", precision]) for name in names}


def _ask(command: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, *command], check=False, capture_output=True, text=True, timeout=LONGEST, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        return {"failed": reason(error)}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        return {"failed": f"its process ended with {done.returncode}: {last[0]}"[:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    return {"MALLOC_MMAP_THRESHOLD_": "65536", **os.environ}


def _grow_on_the_host(contender: Contender, manner: Manner) -> dict[str, Any]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is only kept for later is no memory in use
    _CLEAR.write_text(_SET_PEAK_BACK)
    before = _kilobytes("VmRSS")
    work(contender, manner)
    peak = _kilobytes("VmHWM")
    return {"growth_bytes": 1024 * (peak - before), "before_bytes": 1024 * before}


def _kilobytes(key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{_STATUS} has no {key}")
    return int(found.group(1))
