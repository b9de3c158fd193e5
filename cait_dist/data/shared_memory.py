"""The memory in which decoding workers hand their batches over: a file system of its own, and often a small one.

On Linux that is ``/dev/shm``. Half of a machine's memory is what it has by itself; a container gives 64 MB where nobody
asked for more, which is less than a few batches. How much the workers need is known before they start.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from .errors import DataError

SHARED = Path("/dev/shm")
ROOMS_BEYOND_PREFETCH = 2
"""A worker is never asked for more than its prefetch beyond the batch in use, and one is being filled."""
REMEDY = (
    "take fewer data.workers, a smaller data.prefetch or training.micro_batch_limit, or give it more room (a"
    " container: --shm-size; else: mount -o remount,size=… /dev/shm)"
)


class SharedMemoryError(DataError):
    """The batches of the decoding workers do not fit into the memory that processes share."""


def batch_bytes(batch: int, image_size: int) -> int:
    """Bytes of a batch's images, in whole pages."""
    return -(-batch * 3 * image_size**2 // mmap.PAGESIZE) * mmap.PAGESIZE


def training_bytes(workers: int, prefetch: int, micro_batch: int, image_size: int) -> int:
    """Bytes that a rank's decoding workers take while they train: all of them, and soon."""
    return workers * (prefetch + ROOMS_BEYOND_PREFETCH) * batch_bytes(micro_batch, image_size)


def evaluation_bytes(workers: int, batch: int, samples: int, image_size: int) -> int:
    """Bytes that a rank's workers take at least while they evaluate: one is in use, and each works on another."""
    held = min(workers + 1 if workers else 0, -(-samples // batch))
    return held * batch_bytes(min(batch, samples), image_size)


def free_bytes(place: Path = SHARED) -> int | None:
    """Bytes that are free, None where there is no such place."""
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def check_shared_memory(ranks: int, each: int, host: str) -> None:
    """Refuse what cannot work, before anything waits for it.

    Args:
        ranks: on this node; none of them may have started its workers
        each: bytes that a rank's workers need
        host: of this node, for the message

    Raises:
        SharedMemoryError: if that is more than is free
    """
    free = free_bytes()
    if free is not None and ranks * each > free:
        raise SharedMemoryError(
            f"{SHARED} of {host} is too small: {_megabytes(free)} are free, and the decoding workers of {ranks} ranks"
            f" need {_megabytes(each)} each, {_megabytes(ranks * each)} in all: {REMEDY}"
        )


def is_full(told: str) -> bool:
    """Whether what torch says of a worker means that its batch did not fit."""
    return "Bus error" in told or ("shared memory" in told and "No space left on device" in told)


def say_full() -> str:
    """What to tell once it has happened."""
    free = free_bytes()
    left = f", {_megabytes(free)} are free now" if free is not None else ""
    return f"{SHARED} is full: a decoding worker found no room for its batch{left}: {REMEDY}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
