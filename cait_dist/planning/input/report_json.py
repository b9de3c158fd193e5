"""The measured input as numbers, for scripts and for `cait plan --loader-images-per-second`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cait_dist.config import RunConfig

from ..counting.gpu_demand import demands
from .bench import InputReport


def report_as_dict(config: RunConfig, report: InputReport, mfu: float) -> dict[str, Any]:
    """Make it what JSON can hold.

    Args:
        config: of the run.
        report: what was measured.
        mfu: the share of its peak that a GPU is assumed to reach.

    Returns:
        The report's fields, in seconds per image; ``node_images_per_second``, what all cores of this machine can make;
        ``cpu_seconds`` of an image all in all; and ``demand``, images per second that one GPU of each kind takes.
    """
    found = asdict(report) | {"cpu_seconds": report.cpu_seconds}
    found["node_images_per_second"] = report.cores / report.cpu_seconds
    found["assumed_mfu"] = mfu
    found["demand"] = {row.model: row.images_per_second for row in demands(config.model, report.num_classes, mfu)}
    return found
