"""Files that are whole or absent, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


class Stopped(Exception):  # noqa: N818 - not an error
    """The user asked to stop in the middle of a task."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file under another name; when the block ends well, make it durable and give it its name.

    Whatever happens meanwhile, ``path`` is either what it was before or the whole new file. Names of unfinished files
    start with a dot and end in ``.part``.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as file:
        try:
            yield file
            file.flush()
            publish(Path(file.name), path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def publish(unfinished: Path, path: Path) -> None:
    """Make a file that was written aside durable, and give it its name."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
        # Temporary files are private; these are to be read by whoever may read the folder.
        os.fchmod(file.fileno(), 0o644)
    unfinished.replace(path)
    _sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def file_sha256(path: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """Checksum of a file in hexadecimal.

    Raises:
        Stopped: if ``stopped``, which is asked now and then, says so.
    """
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if stopped():
                raise Stopped
            state.update(block)
    return state.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
