"""What an image costs on its way into a network, part by part.

The parts of a worker are measured in processor time, in one process and thread, over batches as a worker makes them:
its time is what limits it, and does not count what neighbours do. The parts of the device are measured by the clock on
the wall.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cait_dist.augment.pipeline import BatchAugmentation, Purpose
from cait_dist.config import RunConfig
from cait_dist.data.batches import MicroBatch, Reader
from cait_dist.data.crop import train_view, view_uniforms
from cait_dist.data.decode import decode_rgb
from cait_dist.data.order import SampleOrder
from cait_dist.data.randomness import Stream, uniform

_DEVICE_ROUNDS = 5


@dataclass
class WorkerParts:
    """CPU-seconds, of one image or of many.

    Attributes:
        read: from the file to bytes in memory.
        decode: from bytes to pixels.
        crop: cut, resize and flip, into the batch.
        collate: order, random numbers, labels, and room for the batch.
    """

    read: float = 0.0
    decode: float = 0.0
    crop: float = 0.0
    collate: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())

    def over(self, images: int) -> WorkerParts:
        """Per image, if these are of many."""
        return WorkerParts(**{name: seconds / images for name, seconds in asdict(self).items()})


@dataclass(frozen=True)
class DeviceParts:
    """Seconds per image on the device.

    Attributes:
        augment: everything that happens to a batch there before the network sees it.
        copy: from page-locked memory to the device; None where there is nothing to copy to.
    """

    augment: float
    copy: float | None


def measure_worker(
    reader: Reader, order: SampleOrder, config: RunConfig, size: int, batch: int, seconds: float
) -> WorkerParts:
    """Make batches for a while, the stop-watch in hand.

    Every image is read once before, so the page cache is warm.
    """
    parts, done = WorkerParts(), 0
    with one_thread():
        _make_batch(reader, order, config, size, np.arange(batch), WorkerParts())
        began = time.perf_counter()
        while done == 0 or time.perf_counter() - began < seconds:
            positions = np.arange(done, done + batch)
            for index in order.ids(positions).tolist():
                reader.read(index)
            _make_batch(reader, order, config, size, positions, parts)
            done += batch
    return parts.over(done)


def _make_batch(
    reader: Reader,
    order: SampleOrder,
    config: RunConfig,
    size: int,
    positions: npt.NDArray[np.int64],
    spent: WorkerParts,
) -> None:
    """As `cait_dist.data.batches.TrainBatches` does it, but with a stop-watch."""
    clock = time.process_time
    began = clock()
    ids, uniforms = order.ids(positions), view_uniforms(config.seed, positions)
    images = torch.empty((len(ids), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    torch.from_numpy(reader.labels[ids])
    now = clock()
    spent.collate += now - began
    for row, index in enumerate(ids.tolist()):
        began, stored = now, reader.read(index)
        read = clock()
        pixels = decode_rgb(stored) if isinstance(stored, bytes) else stored
        decoded = clock()
        train_view(pixels, size, uniforms[row], config.augment, out=images[row])
        now = clock()
        spent.read += read - began
        spent.decode += decoded - read
        spent.crop += now - decoded


def measure_device(config: RunConfig, batch: MicroBatch, num_classes: int, device: torch.device) -> DeviceParts:
    """Bring one batch to the device and augment it there, a few times each."""

    def look_up(purpose: Purpose, positions: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.float64]:
        return uniform(config.seed, Stream[purpose], positions, draws)

    augment = BatchAugmentation(config.augment, num_classes, look_up, device)
    images, labels = batch.images.to(device), batch.labels.to(device)
    count = len(batch.ids)
    augmenting = _seconds(lambda: augment(images, labels, batch.positions)[0], device) / count
    if device.type == "cpu":
        return DeviceParts(augmenting, None)
    pinned = batch.images.pin_memory()
    return DeviceParts(augmenting, _seconds(lambda: pinned.to(device, non_blocking=True), device) / count)


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    taken = []
    for _ in range(_DEVICE_ROUNDS + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))  # the first only warms up


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """With one thread, as torch gives its workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
