"""Watches how much a cache of remote shards holds, at moments when nobody is changing it."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cait_dist.data.held_files import hold, release


def bytes_in(folder: Path) -> int:
    """The sizes of all files: complete shards, and reservations of those on their way."""
    # Not by `open`: a process forked meanwhile would keep the lock.
    lock = hold(folder / "lock", os.O_RDWR | os.O_CREAT, fcntl.LOCK_SH)
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    finally:
        release(lock)


class Watch:
    """What was seen: the largest sum, how often it was taken, and what ended it."""

    most, looks = 0, 0
    error: BaseException | None = None


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """Take the sum again and again while the block runs."""
    watch, done = Watch(), threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                if folder.exists():
                    watch.most = max(watch.most, bytes_in(folder))
                    watch.looks += 1
                time.sleep(0.002)
        except BaseException as error:
            watch.error = error

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
        if watch.error is not None:
            raise watch.error
