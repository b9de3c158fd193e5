"""Batches of pixels for training and for evaluation.

The training loader turns positions of the sample stream (see `order`) into micro-batches, for ever: it has no epochs
and no end, so no rank can run out of data before another. What a micro-batch holds follows from its step, its number
and the rank alone; decoding workers are handed such a description and return pixels, and have no state that could be
lost, duplicated or forgotten at a restart.

The evaluation loader goes once through this rank's exact part of a set; nothing is padded, so nothing counts twice.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .crop import CropSettings, eval_view, train_view, view_uniforms
from .decode import Pixels
from .errors import CorruptImageError, DataError
from .order import SampleOrder, eval_slice, rank_positions
from .workers import prepare_worker

Ids = npt.NDArray[np.int64]


class Reader(Protocol):
    """What loading asks of a storage format."""

    @property
    def num_samples(self) -> int:
        """Number of samples; ids are below it."""

    @property
    def labels(self) -> Ids:
        """``(num_samples,)``."""

    def read(self, index: int) -> bytes:
        """The encoded image of one sample."""

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
        images: ``(b, 3, H, W)`` uint8, contiguous.
        labels: ``(b,)`` int64.
    """

    step: int
    micro: int
    positions: Ids
    ids: Ids
    images: Tensor
    labels: Tensor

    def pin_memory(self) -> MicroBatch:
        """The same with tensors in page-locked memory; called by torch's data loader."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


@dataclass(frozen=True)
class EvalBatch:
    """Some samples of an evaluation set.

    Attributes:
        ids: ``(b,)`` sample ids.
        images: ``(b, 3, H, W)`` uint8, contiguous.
        labels: ``(b,)`` int64.
    """

    ids: Ids
    images: Tensor
    labels: Tensor

    def pin_memory(self) -> EvalBatch:
        """The same with tensors in page-locked memory; called by torch's data loader."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class _Slot(NamedTuple):
    """Description of one micro-batch; all that ever travels to a worker."""

    step: int
    micro: int


class _TrainBatches(Dataset[MicroBatch]):
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
    ) -> None:
        self.reader, self.order, self.augment = reader, order, augment
        self.image_size, self.seed = image_size, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, slot: _Slot) -> MicroBatch:
        mine = rank_positions(slot.step, self.global_batch, self.rank, self.world_size)
        start = mine.start + slot.micro * self.micro_batch
        positions = np.arange(start, start + self.micro_batch, dtype=np.int64)
        ids = self.order.ids(positions)
        uniforms = view_uniforms(self.seed, positions)

        def view(row: int, encoded: bytes) -> Pixels:
            return train_view(encoded, self.image_size, uniforms[row], self.augment)

        images = _read_images(self.reader, ids, self.image_size, view)
        return MicroBatch(slot.step, slot.micro, positions, ids, images, torch.from_numpy(self.reader.labels[ids]))


class _TrainSlots(Sampler[_Slot]):
    """Descriptions of micro-batches, from a step on, without end."""

    def __init__(self, start_step: int, micro_batches: int) -> None:
        self._start_step, self._micro_batches = start_step, micro_batches

    def __iter__(self) -> Iterator[_Slot]:
        step = self._start_step
        while True:
            for micro in range(self._micro_batches):
                yield _Slot(step, micro)
            step += 1


class TrainLoader:
    """An endless iterator over one rank's micro-batches, in order.

    Args:
        reader: where the images are.
        order: which sample stands where in the stream.
        augment: ranges of the crop, probability of the flip.
        image_size: side of the images in pixels.
        seed: of crops and flips.
        global_batch: samples per step over all ranks.
        micro_batch: samples per item; must divide the rank's share of the global batch.
        rank: this rank.
        world_size: number of ranks.
        start_step: first step; to resume, the number of steps done.
        workers: decoding processes; 0 decodes in this process.
        prefetch: micro-batches that each worker keeps ready.

    Raises:
        DataError: if the global batch cannot be cut evenly into micro-batches.
    """

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
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        workers: int = 0,
        prefetch: int = 4,
    ) -> None:
        share = len(rank_positions(start_step, global_batch, rank, world_size))
        if micro_batch < 1 or share % micro_batch:
            raise DataError(
                f"a rank's share of {share} samples cannot be cut into micro-batches of {micro_batch}; "
                f"possible are {', '.join(str(n) for n in range(1, share + 1) if share % n == 0)}"
            )
        if order.num_samples != reader.num_samples:
            raise DataError(f"the order is of {order.num_samples} samples, the reader has {reader.num_samples}")
        self.micro_batches = share // micro_batch
        batches = _TrainBatches(
            reader,
            order,
            augment,
            image_size=image_size,
            seed=seed,
            global_batch=global_batch,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
        )
        slots = _TrainSlots(start_step, self.micro_batches)
        self._batches: Iterator[MicroBatch] | None = iter(_make_loader(batches, slots, workers, prefetch))
        # If the program ends without close(), torch waits seconds for each worker that nobody has told to stop.
        self._at_exit = partial(_close_if_alive, weakref.ref(self))
        atexit.register(self._at_exit)

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> MicroBatch:
        if self._batches is None:
            raise DataError("this loader was closed; make a new one with start_step set")
        return next(self._batches)

    def close(self) -> None:
        """Stop the workers and wait for them; harmless if done twice."""
        _stop_workers(self._batches)
        self._batches = None
        atexit.unregister(self._at_exit)

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _EvalBatches(Dataset[EvalBatch]):
    """From a range of ids to its content."""

    def __init__(self, reader: Reader, image_size: int, crop_ratio: float) -> None:
        self.reader, self.image_size, self.crop_ratio = reader, image_size, crop_ratio

    def __getitem__(self, part: range) -> EvalBatch:
        ids = np.arange(part.start, part.stop, dtype=np.int64)

        def view(_: int, encoded: bytes) -> Pixels:
            return eval_view(encoded, self.image_size, self.crop_ratio)

        images = _read_images(self.reader, ids, self.image_size, view)
        return EvalBatch(ids, images, torch.from_numpy(self.reader.labels[ids]))


class EvalLoader:
    """One rank's part of an evaluation set; every ``iter()`` goes through it once.

    Args:
        reader: where the images are.
        image_size: side of the images in pixels.
        crop_ratio: side of the central square over the short side.
        batch: samples per batch; the last one may be smaller.
        rank: this rank.
        world_size: number of ranks.
        workers: decoding processes; 0 decodes in this process.
        prefetch: batches that each worker keeps ready.

    Attributes:
        rounds: number of batches of the rank that has most, so that the others know how often they must take part in
            whatever all ranks do together.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        image_size: int,
        crop_ratio: float,
        batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = 2,
    ) -> None:
        if batch < 1:
            raise DataError(f"a batch holds at least 1 sample, got {batch}")
        self._dataset = _EvalBatches(reader, image_size, crop_ratio)
        self._mine = eval_slice(reader.num_samples, rank, world_size)
        self._batch, self._workers, self._prefetch = batch, workers, prefetch
        self.rounds = -(-max(len(eval_slice(reader.num_samples, r, world_size)) for r in range(world_size)) // batch)

    @property
    def num_samples(self) -> int:
        """Samples that this rank sees."""
        return len(self._mine)

    def __iter__(self) -> Iterator[EvalBatch]:
        parts = [self._mine[start : start + self._batch] for start in range(0, len(self._mine), self._batch)]
        if not parts:
            return
        batches = iter(_make_loader(self._dataset, parts, min(self._workers, len(parts)), self._prefetch))
        try:
            yield from batches
        finally:
            _stop_workers(batches)


def _read_images(reader: Reader, ids: Ids, image_size: int, view: Callable[[int, bytes], Pixels]) -> Tensor:
    """Read and show the samples, as ``(len(ids), 3, image_size, image_size)`` uint8."""
    images = np.empty((len(ids), 3, image_size, image_size), dtype=np.uint8)
    for row, index in enumerate(ids.tolist()):
        try:
            images[row] = view(row, reader.read(index)).transpose(2, 0, 1)
        except CorruptImageError as error:
            raise CorruptImageError(f"{reader.locate(index)}: {error}; run `cait verify` on the data") from None
    return torch.from_numpy(images)


def _make_loader(dataset: Dataset[Any], slots: Any, workers: int, prefetch: int) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        sampler=slots,
        batch_size=None,  # an item is a batch already
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=prepare_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise each loader would draw from the global generator, and shift it
    )


def _close_if_alive(loader: weakref.ref[TrainLoader]) -> None:
    if (alive := loader()) is not None:
        alive.close()


def _as_it_is(batch: Any) -> Any:
    return batch


def _stop_workers(batches: object) -> None:
    # There is no public way to stop a loader's workers at a given moment; waiting for the garbage collector is none.
    if (stop := getattr(batches, "_shutdown_workers", None)) is not None:
        stop()
