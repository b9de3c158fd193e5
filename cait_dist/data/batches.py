"""From the description of a batch to its pixels: pure functions, so that any process may compute any batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from .corrupt import CorruptSample, take_sound
from .crop import CropSettings, eval_view, train_view, view_uniforms
from .decode import Pixels
from .errors import CorruptImageError
from .order import SampleOrder, rank_positions

Ids = npt.NDArray[np.int64]


class Reader(Protocol):
    """What loading asks of a storage format."""

    @property
    def num_samples(self) -> int:
        """Number of samples; ids are below it."""

    @property
    def labels(self) -> Ids:
        """``(num_samples,)``."""

    def read(self, index: int) -> bytes | Pixels:
        """The image of one sample: encoded, or as pixels ``(height, width, 3)`` where they are stored so."""

    def locate(self, index: int) -> str:
        """Where it lies, for messages."""


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes at once in training.

    Attributes:
        step: optimizer step it belongs to.
        micro: its number within the step on this rank.
        positions: ``(b,)`` places in the training stream, consecutive.
        ids: ``(b,)`` sample ids.
        images: ``(b, 3, H, W)`` uint8, channels last in memory.
        labels: ``(b,)`` int64.
        corrupt: samples that others stand in for.
    """

    step: int
    micro: int
    positions: Ids
    ids: Ids
    images: Tensor
    labels: Tensor
    corrupt: tuple[CorruptSample, ...] = ()

    def pin_memory(self) -> MicroBatch:
        """The same with tensors in page-locked memory; called by torch's data loader."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


@dataclass(frozen=True)
class EvalBatch:
    """Some samples of an evaluation set.

    Attributes:
        ids: ``(b,)`` sample ids.
        images: ``(b, 3, H, W)`` uint8, channels last in memory.
        labels: ``(b,)`` int64.
    """

    ids: Ids
    images: Tensor
    labels: Tensor

    def pin_memory(self) -> EvalBatch:
        """The same with tensors in page-locked memory; called by torch's data loader."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class Slot(NamedTuple):
    """Description of one micro-batch; all that ever travels to a worker."""

    step: int
    micro: int


class BatchMemory:
    """Room for batches: new for each, or a few rooms in turn.

    Memory that was never used before costs a page fault for every 4 kB, which at 448 pixels adds up to a tenth of the
    time an image takes. In a worker, the room is shared with the training process, which spares a copy.

    Args:
        rooms: how many rooms are used in turn; 0 for a new one each time.
    """

    def __init__(self, rooms: int = 0) -> None:
        self._rooms, self._used = rooms, 0
        self._kept: list[Tensor] = []

    def next(self, count: int, image_size: int) -> Tensor:
        """A room: ``(count, 3, image_size, image_size)`` uint8, channels last in memory."""
        shape = (count, image_size, image_size, 3)
        if not self._rooms:
            return _shareable(shape)
        if len(self._kept) < self._rooms:
            self._kept.append(_shareable(shape))
        self._used += 1
        return self._kept[(self._used - 1) % self._rooms]


def _shareable(shape: tuple[int, ...]) -> Tensor:
    if get_worker_info() is None:
        rows = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's own collate function does
        rows = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return rows.permute(0, 3, 1, 2)


def _shared_labels(labels: Ids) -> Tensor:
    """Labels where the training process can reach them.

    Python's queue would move them there in a thread, and a batch for which that fails is never heard of again.
    """
    found = torch.from_numpy(labels)
    return found if get_worker_info() is None else found.share_memory_()


class TrainBatches(Dataset[MicroBatch]):
    """From the description of a micro-batch to its content: a pure function."""

    def __init__(
        self,
        reader: Reader,
        order: SampleOrder,
        augment: CropSettings,
        *,
        image_size: int,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        memory: BatchMemory,
        skip_corrupt: bool = False,
    ) -> None:
        self.reader, self.order, self.augment, self.memory = reader, order, augment, memory
        self.image_size, self.seed = image_size, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size, self.skip_corrupt = rank, world_size, skip_corrupt

    def __getitem__(self, slot: Slot) -> MicroBatch:
        mine = rank_positions(slot.step, self.global_batch, self.rank, self.world_size)
        start = mine.start + slot.micro * self.micro_batch
        positions = np.arange(start, start + self.micro_batch, dtype=np.int64)
        ids = self.order.ids(positions)
        uniforms = view_uniforms(self.seed, positions)

        def show(row: int, image: bytes | Pixels, place: Tensor) -> None:
            train_view(image, self.image_size, uniforms[row], self.augment, out=place)

        images = self.memory.next(len(ids), self.image_size)

        def take(row: int, index: int) -> None:
            _read_image(self.reader, index, row, images, show)

        corrupt: tuple[CorruptSample, ...] = ()
        if self.skip_corrupt:
            corrupt = take_sound(ids, positions, self.seed, self.reader.num_samples, take)
        else:
            _read_images(self.reader, ids, images, show)
        labels = _shared_labels(self.reader.labels[ids])
        return MicroBatch(slot.step, slot.micro, positions, ids, images, labels, corrupt)


class EvalBatches(Dataset[EvalBatch]):
    """From a range of ids to its content."""

    def __init__(self, reader: Reader, image_size: int, crop_ratio: float) -> None:
        self.reader, self.image_size, self.crop_ratio = reader, image_size, crop_ratio

    def __getitem__(self, part: range) -> EvalBatch:
        ids = np.arange(part.start, part.stop, dtype=np.int64)

        def show(_: int, image: bytes | Pixels, place: Tensor) -> None:
            place.copy_(eval_view(image, self.image_size, self.crop_ratio))

        images = BatchMemory().next(len(ids), self.image_size)
        _read_images(self.reader, ids, images, show)
        return EvalBatch(ids, images, _shared_labels(self.reader.labels[ids]))


Show = Callable[[int, bytes | Pixels, Tensor], None]


def _read_images(reader: Reader, ids: Ids, images: Tensor, show: Show) -> None:
    """Read the samples and show each in its place among the images."""
    for row, index in enumerate(ids.tolist()):
        _read_image(reader, index, row, images, show)


def _read_image(reader: Reader, index: int, row: int, images: Tensor, show: Show) -> None:
    try:
        show(row, reader.read(index), images[row])
    except CorruptImageError as error:
        raise CorruptImageError(f"{reader.locate(index)}: {error}; run `cait verify` on the data") from None
