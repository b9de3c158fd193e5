"""Starts loaders where processes share little memory; to be run where /dev/shm may be mounted anew.

Arguments: folder of the shards, file for what was found, as JSON.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.loader import EvalLoader, TrainLoader, death_of_worker
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import open_split
from cait_dist.data.shared_memory import batch_bytes, check_shared_memory, training_bytes

SIZE, BATCH, WORKERS, PREFETCH = 64, 20, 2, 2
PAGE = 4096


def have(size: int) -> None:
    """Have a /dev/shm of that many bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", "/dev/shm"], check=True)


def told(work: Callable[[], object]) -> str:
    try:
        return f"well: {work()}"
    except Exception as error:
        error = death_of_worker(error) or error
        return f"{type(error).__name__}: {error}"


def count(batches: Iterable[object]) -> int:
    return sum(1 for _ in islice(batches, 40))


def train(shards: Path, during: Callable[[], object] = bool) -> object:
    reader = open_split(shards, "train")
    order = SampleOrder(reader.num_samples, 5)
    with TrainLoader(reader, order, AugmentConfig(), image_size=SIZE, seed=0, global_batch=BATCH, micro_batch=BATCH,
                     workers=WORKERS, prefetch=PREFETCH, reuse_memory=True) as loader:  # fmt: skip
        next(loader)
        return during() or count(loader)


def kill_a_worker(shards: Path) -> object:
    """As the kernel does where a page that was promised is not there."""

    def kill() -> None:
        for worker in psutil.Process().children():
            os.kill(worker.pid, signal.SIGBUS)

    return train(shards, kill)


def main() -> None:
    shards, out, found = Path(sys.argv[1]), Path(sys.argv[2]), dict[str, str]()
    need = training_bytes(WORKERS, PREFETCH, BATCH, SIZE)
    labels = WORKERS * (PREFETCH + 2) * PAGE
    locks = 40 * PAGE
    have(need + labels + locks)
    found["enough"] = told(lambda: train(shards))
    found["enough is checked"] = told(lambda: check_shared_memory(1, need, "here"))
    found["two ranks"] = told(lambda: check_shared_memory(2, need, "here"))
    have(need - batch_bytes(BATCH, SIZE) + labels)
    found["one batch too little"] = told(lambda: train(shards))
    have(need + labels + locks)
    found["killed"] = told(lambda: kill_a_worker(shards))
    evaluation = EvalLoader(open_split(shards, "val"), image_size=256, crop_ratio=1.0, batch=18, workers=2)
    found["evaluation"] = told(lambda: count(evaluation))
    # Whatever a batch needs besides its images is asked for where a failure is heard of: there is no waiting for ever.
    for room in (1, 3, 5, 7, 9, 12, 16):
        have(used() + batch_bytes(BATCH, SIZE) + room * PAGE)
        found[f"images and {room} pages"] = told(lambda: train(shards))
    with suppress(OSError), Path("/dev/shm/full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))
    found["none"] = told(lambda: train(shards))
    out.write_text(json.dumps(found))


def used() -> int:
    """Bytes of what is there already."""
    status = os.statvfs("/dev/shm")
    return (status.f_blocks - status.f_bfree) * status.f_frsize


if __name__ == "__main__":
    main()
