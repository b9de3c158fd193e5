"""Files that are whole or absent, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
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


def read_plain(path: Path, most: int) -> bytes:
    """The content of a file that somebody else may have put there: a plain one, of bounded size.

    Args:
        path: the file. A pipe, whose opening would wait for ever, or a device, which has no end, is refused.
        most: bytes that it may have.

    Raises:
        OSError: if it cannot be read, is no plain file or has more.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no plain file")
        content = b"" if status.st_size > most else file.read(status.st_size + 1)
        if max(status.st_size, len(content)) > most:
            raise OSError(errno.EFBIG, f"has more than {most:,} bytes")
        return content


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
