"""Under which circumstances something was measured: what every JSON of results begins with."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cait_dist.tracking.code_version import describe_code

PACKAGES = ("torch", "triton", "timm")


def circumstances(device: torch.device, threads: int) -> dict[str, Any]:
    """Command, code, date, hardware, versions and how busy the machine is.

    Args:
        device: that computes
        threads: of torch, where that is a CPU
    """
    return {
        "command": shlex.join(["python", *sys.argv]),
        **describe_code(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "python": platform.python_version(),
        "versions": versions(),
        "threads": threads if device.type == "cpu" else None,
        "load_average": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    """Of the packages that decide how fast it is, where they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}


def processor() -> str:
    """Name and number of the cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
