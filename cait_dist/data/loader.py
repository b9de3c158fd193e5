"""Batches of pixels for training and for evaluation.

The training loader turns positions of the sample stream (see `order`) into micro-batches, for ever: it has no epochs
and no end, so no rank can run out of data before another. What a micro-batch holds follows from its step, its number
and the rank alone; decoding workers are handed such a description and return pixels, and have no state that could be
lost, duplicated or forgotten at a restart.

The evaluation loader goes once through this rank's exact part of a set; nothing is padded, so nothing counts twice.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import weakref
from collections.abc import Iterator
from functools import partial
from multiprocessing import connection
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .batches import BatchMemory, EvalBatch, EvalBatches, MicroBatch, Reader, Slot, TrainBatches
from .crop import CropSettings
from .errors import DataError, WorkerKilledError
from .order import SampleOrder, eval_slice, rank_positions
from .prefetch import start_prefetch
from .shared_memory import ROOMS_BEYOND_PREFETCH, SharedMemoryError, is_full, say_full
from .workers import prepare_worker

__all__ = ["EvalBatch", "EvalLoader", "MicroBatch", "TrainLoader"]


class _TrainSlots(Sampler[Slot]):
    """Descriptions of micro-batches, from a step on, without end."""

    def __init__(self, start_step: int, micro_batches: int) -> None:
        self._start_step, self._micro_batches = start_step, micro_batches

    def __iter__(self) -> Iterator[Slot]:
        step = self._start_step
        while True:
            for micro in range(self._micro_batches):
                yield Slot(step, micro)
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
        reuse_memory: a batch's images are needed only until the next batch is asked for; spares the work of finding
            new memory for each.
        skip_corrupt: let others stand in for corrupt samples, instead of an error.

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
        reuse_memory: bool = False,
        skip_corrupt: bool = False,
    ) -> None:
        self.micro_batches = check_micro_batch(reader, order, global_batch, micro_batch, rank, world_size)
        batches = TrainBatches(
            reader,
            order,
            augment,
            image_size=image_size,
            seed=seed,
            global_batch=global_batch,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
            memory=BatchMemory(prefetch + ROOMS_BEYOND_PREFETCH if reuse_memory else 0),
            skip_corrupt=skip_corrupt,
        )
        slots = _TrainSlots(start_step, self.micro_batches)
        self._batches: Iterator[MicroBatch] | None = _start(batches, slots, workers, prefetch)
        # After the workers, so that they are forked from a process without this thread.
        self._ahead = start_prefetch(reader, order, start_step * global_batch)
        self._global_batch = global_batch
        # If the program ends without close(), torch waits seconds for each worker that nobody has told to stop.
        self._at_exit = partial(_close_if_alive, weakref.ref(self))
        atexit.register(self._at_exit)

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> MicroBatch:
        if self._batches is None:
            raise DataError("this loader was closed; make a new one with start_step set")
        with _told_plainly(self._batches):
            batch = next(self._batches)
        if self._ahead is not None:
            self._ahead.move_to(batch.step * self._global_batch)
        return batch

    def close(self) -> None:
        """Stop the workers and wait for them; harmless if done twice."""
        if self._ahead is not None:
            self._ahead.close()
        _stop_workers(self._batches)
        self._batches = None
        atexit.unregister(self._at_exit)

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        self._dataset = EvalBatches(reader, image_size, crop_ratio)
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
        batches = _start(self._dataset, parts, min(self._workers, len(parts)), self._prefetch)
        try:
            with _told_plainly(batches):
                yield from batches
        finally:
            _stop_workers(batches)


def check_micro_batch(
    reader: Reader, order: SampleOrder, global_batch: int, micro_batch: int, rank: int, world_size: int
) -> int:
    """How many micro-batches make a rank's share of the global batch.

    Raises:
        DataError: if it is no whole number, or the order is one of other data.
    """
    share = len(rank_positions(0, global_batch, rank, world_size))
    if micro_batch < 1 or share % micro_batch:
        raise DataError(
            f"a rank's share of {share} samples cannot be cut into micro-batches of {micro_batch}; "
            f"possible are {', '.join(str(n) for n in range(1, share + 1) if share % n == 0)}"
        )
    if order.num_samples != reader.num_samples:
        raise DataError(f"the order is of {order.num_samples} samples, the reader has {reader.num_samples}")
    return share // micro_batch


def _start(dataset: Dataset[Any], slots: Any, workers: int, prefetch: int) -> Iterator[Any]:
    """The batches in order, with the workers that make them at work."""
    loader: DataLoader[Any] = DataLoader(
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
    try:
        return iter(loader)
    except OSError as error:
        # The locks of the workers' queues lie there, too.
        if error.errno != errno.ENOSPC:
            raise
        raise SharedMemoryError(say_full()) from error


@contextlib.contextmanager
def _told_plainly(batches: object) -> Iterator[None]:
    """A worker's error comes with a traceback as its text: keep the message.

    A worker that was killed shows in several ways, depending on what it left undone; say what it means.
    """
    try:
        yield
    except DataError as error:
        _, found, message = str(error).rpartition(f"\n{type(error).__module__}.{type(error).__qualname__}: ")
        if not found:
            raise
        raise type(error)(message.strip()) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        told = death_of_worker(error)
        if told is None and isinstance(error, RuntimeError):
            raise
        if _has_bus_error(batches):
            told = SharedMemoryError(say_full())
        raise told or _killed(error) from error


def death_of_worker(error: Exception) -> DataError | WorkerKilledError | None:
    """What it means that torch says so of a worker, None where it does not.

    Torch hears of a death by a signal, and raises wherever the program is just then: seldom where it waits for a batch.
    """
    if not isinstance(error, RuntimeError):
        return None
    if is_full(str(error)):
        return SharedMemoryError(say_full())
    return _killed(error) if "DataLoader worker (pid" in str(error) else None


def _killed(error: Exception) -> WorkerKilledError:
    return WorkerKilledError(
        f"a decoding worker was killed, perhaps for want of memory; try fewer workers or less prefetch ({error})"
    )


def _has_bus_error(batches: object) -> bool:
    """Whether a worker ended of it; what torch says of that depends on who notices first.

    What is dying is waited for, so that torch does not hear of it later, by a signal, and raises a second error in the
    middle of whatever is done about the first.
    """
    workers = {worker.sentinel: worker for worker in getattr(batches, "_workers", [])}
    for _ in range(2):
        with contextlib.suppress(RuntimeError):  # it may hear of it here; once, as it tells of a loader only once
            # A sentinel is closed a moment before its process has ended.
            ended = [workers[sentinel] for sentinel in connection.wait(list(workers), timeout=5.0)]
            for worker in ended:
                _wait_for_end(worker.pid)
            return any(worker.exitcode == -signal.SIGBUS for worker in ended)
    return False


def _wait_for_end(process: int) -> None:
    # Leaving its status to be fetched: an error raised by a signal while it is fetched loses it.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def _close_if_alive(loader: weakref.ref[TrainLoader]) -> None:
    if (alive := loader()) is not None:
        alive.close()


def _as_it_is(batch: Any) -> Any:
    return batch


def _stop_workers(batches: object) -> None:
    # There is no public way to stop a loader's workers at a given moment; waiting for the garbage collector is none.
    if (stop := getattr(batches, "_shutdown_workers", None)) is not None:
        stop()
