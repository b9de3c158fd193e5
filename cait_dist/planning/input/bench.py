"""Measures the input of a run on the user's own data: every part alone, and the loader as a whole.

The loader's processor time is that of its processes, looked up in /proc while they work; elsewhere than on Linux the
sum of the parts stands in for it, which leaves out what passing batches between processes costs.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cait_dist.config import RunConfig
from cait_dist.config.section import is_url
from cait_dist.data.batches import MicroBatch, Reader
from cait_dist.data.loader_ffcv import make_train_loader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import open_split

from .parts import DeviceParts, WorkerParts, measure_device, measure_worker, one_thread

_LARGEST_BATCH = 64
_COLD_READS = 256


class BenchError(ValueError):
    """What cannot be measured, and what to do about it."""


@dataclass(frozen=True)
class LoaderSpeed:
    """The whole loader at work.

    Attributes:
        images_per_second: by the clock on the wall.
        cpu_seconds: of all its processes, per image; None where they cannot be looked into.
    """

    images_per_second: float
    cpu_seconds: float | None


@dataclass(frozen=True)
class InputReport:
    """What was measured. Parts are None where FFCV's decoder does the work, which cannot be looked into.

    Attributes:
        image_size: side in pixels.
        batch: images in a batch.
        workers: of the loader.
        cores: of this machine that this process may use.
        num_classes: of the data, or as configured.
        device: where images are augmented.
        parts: of a worker, per image.
        loader: as a whole.
        on_device: per image.
        cold_read: seconds per image by the clock on the wall, if it was asked for.
    """

    image_size: int
    batch: int
    workers: int
    cores: int
    num_classes: int
    device: str
    parts: WorkerParts | None
    loader: LoaderSpeed
    on_device: DeviceParts
    cold_read: float | None

    @property
    def cpu_seconds(self) -> float:
        """What an image costs a core, all in all."""
        guess = self.parts.total if self.parts else self.workers / self.loader.images_per_second
        return self.loader.cpu_seconds or guess


def bench_input(config: RunConfig, seconds: float, *, cold: bool = False) -> InputReport:
    """Measure the input of a run.

    Args:
        config: of the run.
        seconds: to spend on the parts, and again on the loader.
        cold: whether to drop the shards from the page cache first and time reads from the storage.

    Raises:
        BenchError: if cold reads are asked for where there can be none.
        DataError: if the data cannot be read.
    """
    data = config.data
    reader = open_split(data.path, data.train_split, data.format, data.remote)
    order = SampleOrder(
        reader.num_samples, config.seed, data.order, data.repeats, reader.shard_sizes, data.block_shards
    )
    cold_read = _cold_read(config, reader, order) if cold else None
    size = config.model.image_size or int(config.model.name.rpartition("_")[2])
    batch = min(_LARGEST_BATCH, config.training.global_batch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader, example = _measure_loader(config, reader, order, size, batch, seconds)
    num_classes = config.model.num_classes or reader.num_classes
    return InputReport(
        image_size=size,
        batch=batch,
        workers=data.workers,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        num_classes=num_classes,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        parts=measure_worker(reader, order, config, size, batch, seconds) if data.decoder == "exact" else None,
        loader=loader,
        on_device=measure_device(config, example, num_classes, device),
        cold_read=cold_read,
    )


def _measure_loader(
    config: RunConfig, reader: Reader, order: SampleOrder, size: int, batch: int, seconds: float
) -> tuple[LoaderSpeed, MicroBatch]:
    """The loader's speed once it is in its stride, and one of its batches."""
    data = config.data
    settings = {"image_size": size, "seed": config.seed, "global_batch": batch, "micro_batch": batch}
    with (
        one_thread(),
        make_train_loader(
            data.decoder, reader, order, config.augment, workers=data.workers, prefetch=data.prefetch, **settings
        ) as loader,
    ):
        example = next(loader)
        for _ in range(data.workers * data.prefetch):  # made while the processes started
            next(loader)
        images, began, spent = 0, time.perf_counter(), _cpu_seconds()
        while images == 0 or time.perf_counter() - began < seconds:
            images += len(next(loader).ids)
        wall, now = time.perf_counter() - began, _cpu_seconds()
    return LoaderSpeed(images / wall, None if spent is None or now is None else (now - spent) / images), example


def _cpu_seconds() -> float | None:
    """Of this process and its workers; None where the system does not tell."""
    total = time.process_time()
    for process in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system time, see proc(5)
    return total


def _cold_read(config: RunConfig, reader: Reader, order: SampleOrder) -> float:
    """Seconds by the clock on the wall that a read from the storage takes; the first images of the run are read."""
    if is_url(config.data.path) or not hasattr(os, "posix_fadvise"):
        raise BenchError("--cold needs data on a disk and Linux, whose page cache can be told to forget: leave it out")
    for path in (Path(config.data.path) / config.data.train_split).iterdir():
        if path.suffix in (".tar", ".beton"):
            _forget(path)
    ids = order.ids(range(min(_COLD_READS, reader.num_samples))).tolist()
    began = time.perf_counter()
    for index in ids:
        reader.read(index)
    return (time.perf_counter() - began) / len(ids)


def _forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that wait to be written are not forgotten
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
