"""File systems that are really full, and those that may only be read: mounted in memory, by root alone."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

REFILL_SECONDS = 0.02
MOST_BYTES = 64 * 2**20
"""Of a file system that may be filled."""


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size at a folder; skips the test where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        Ballast.lift_all(place)
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def set_writable(place: Path, writable: bool) -> None:
    """Have a mounted file system be written, or only be read."""
    subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", str(place)], check=True)


class Ballast:
    """Fills a file system to the last byte, and keeps it full until it is lifted.

    One open file takes it all: were it opened anew, it would fill the machine's own disk once the small one is gone.
    """

    _on_disks: ClassVar[list["Ballast"]] = []

    def __init__(self, disk: Path) -> None:
        found = os.statvfs(disk)
        assert disk.is_mount(), f"{disk} is no file system of its own"
        assert found.f_blocks * found.f_frsize <= MOST_BYTES, f"{disk} is too large to be filled"
        self._disk, self._path, self._lifted = disk, disk / "ballast", threading.Event()
        self._file = self._path.open("ab", buffering=0)
        self._fill()
        self._thread = threading.Thread(target=self._keep_full, daemon=True)
        self._thread.start()
        self._on_disks.append(self)

    @classmethod
    def lift_all(cls, disk: Path) -> None:
        """Make room, where a test that failed has not."""
        for ballast in [b for b in cls._on_disks if b._disk == disk]:
            ballast.lift()

    def lift(self) -> None:
        """Make room."""
        self._on_disks.remove(self)
        self._lifted.set()
        self._thread.join()
        self._file.close()
        self._path.unlink()

    def _keep_full(self) -> None:
        # What others remove, such as half a checkpoint, would be room again.
        while not self._lifted.wait(REFILL_SECONDS):
            self._fill()

    def _fill(self) -> None:
        for size in (1 << 20, 1 << 12, 1):
            block = os.urandom(size)
            try:
                while True:
                    self._file.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
