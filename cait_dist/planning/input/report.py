"""The measured input in words and tables: what limits it, and whom it can feed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cait_dist.config import RunConfig

from ..counting.gpu_demand import PEAK_FLOPS, Demand, demands
from .bench import InputReport

_NAMES = {
    "read": "read, page cache warm",
    "decode": "decode",
    "crop": "crop, resize, flip",
    "collate": "collate",
}


def print_report(config: RunConfig, report: InputReport, mfu: float, console: Console | None = None) -> None:
    """Print everything there is to say about the input of a run."""
    needed = demands(config.model, report.num_classes, mfu)
    verdict = Text("\n".join(_verdict(report, needed[0], mfu)))
    (console or Console()).print(Group(_parts_table(report), verdict, _gpu_table(report, needed, mfu)), soft_wrap=True)


def limiting_part(report: InputReport) -> tuple[str, float] | None:
    """The part of a worker that takes longest, and its share of all of them; None if nobody could look."""
    if report.parts is None:
        return None
    name, seconds = max(asdict(report.parts).items(), key=lambda item: item[1])
    return _NAMES[name], seconds / report.parts.total


def _parts_table(report: InputReport) -> Table:
    table = Table(title=f"one image of {report.image_size} pixels, in batches of {report.batch}", title_justify="left")
    for heading in ("part", "milliseconds", "per second", "time"):
        table.add_column(heading, justify="left" if heading in ("part", "time") else "right")
    for name, seconds, clock in _rows(report):
        table.add_row(name, f"{1e3 * seconds:.3f}", f"{1 / seconds:,.0f}" if seconds > 0 else "", clock)
    return table


def _rows(report: InputReport) -> Iterator[tuple[str, float, str]]:
    if report.parts is not None:
        for name, seconds in asdict(report.parts).items():
            yield _NAMES[name], seconds, "CPU, one process"
    yield "whole loader", report.cpu_seconds, "CPU, all processes"
    yield f"whole loader, workers: {report.workers}", 1 / report.loader.images_per_second, "wall"
    yield "augmentation", report.on_device.augment, f"wall, {report.device}"
    if report.on_device.copy is not None:
        yield "copy to the device", report.on_device.copy, "wall"
    if report.cold_read is not None:
        yield "read, page cache dropped", report.cold_read, "wall, one by one"


def _verdict(report: InputReport, own: Demand, mfu: float) -> Iterator[str]:
    if (limit := limiting_part(report)) is None:
        yield "FFCV's decoder works as a whole: its parts cannot be told apart."
    else:
        yield f"What limits a worker: {limit[0]}, {limit[1]:.0%} of its time."
    if report.cold_read is None:
        yield "Reads came from the page cache; with --cold, reads from the storage are measured as well."
    if report.on_device.copy is None:
        yield "There is no GPU: the copy to it was left out, and augmentation measured on the CPU."
    rate = 1 / report.cpu_seconds
    yield (
        f"A worker makes {rate:,.0f} images per second, the {report.cores} cores of this machine"
        f" {report.cores * rate:,.0f}, if nothing else runs on them."
    )
    least = ", ".join(f"{name} {math.ceil(wanted / rate):,}" for name, wanted in own.images_per_second.items())
    yield f"Workers that one GPU needs for this configuration, at {mfu:.0%} of its peak: {least}."


def _gpu_table(report: InputReport, needed: list[Demand], mfu: float) -> Table:
    supply = report.cores / report.cpu_seconds
    table = Table(
        title=f"GPUs that this machine's {report.cores} cores can feed, at an assumed MFU of {mfu:g}",
        title_justify="left",
        caption="images per second that one GPU takes, and how many such GPUs are fed; a training step is"
        " counted as 6 FLOP per multiply-add of the forward pass",
        caption_justify="left",
    )
    table.add_column("model")
    for name, peak in PEAK_FLOPS.items():
        table.add_column(f"{name}\n{peak / 1e12:.0f} TFLOP/s", justify="right")
    for row in needed:
        cells = [f"{wanted:,.0f}/s  {supply / wanted:,.2f}" for wanted in row.images_per_second.values()]
        table.add_row(row.model, *cells)
    return table
