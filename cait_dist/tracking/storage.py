"""What a file system may answer to a write, and what its user can do about it.

A disk is full, a quota used up, a file system became read-only: none of this is a fault of the program, and all of it
is told in one line that names the file, what the system said and the remedy. What is replaced is written aside, flushed
and renamed, so a reader finds the old content or the new; the folder is flushed as well, as a rename is an entry of the
folder.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MENDABLE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free some of the quota there, or have it raised",
    errno.EROFS: "have it mounted to be written",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
}
"""What the system says where trying again would end the same way, and what helps."""
PASSING = frozenset({errno.EIO, errno.ESTALE})
"""What it says where a server or a disk fails: on another node, or later, it may be well."""


def is_about_storage(error: BaseException) -> bool:
    """Whether it is a file system's answer to a write."""
    return isinstance(error, OSError) and (error.errno in MENDABLE or error.errno in PASSING)


def explain(error: OSError, folder: Path, last_checkpoint: int | None) -> str:
    """One line: the file, what the system said, what to do, and where the run then goes on.

    Args:
        error: see `is_about_storage`
        folder: of the run, where the error does not name a file
        last_checkpoint: step of the newest complete checkpoint, None where there is none
    """
    remedy = MENDABLE.get(error.errno or 0, "see what is wrong with that file system")
    goes_on = (
        f"the last checkpoint is step {last_checkpoint}" if last_checkpoint is not None else "there is no checkpoint"
    )
    return (
        f"{error.filename or folder} cannot be written ({error.strerror}): {remedy}; the same command goes on then"
        f" ({goes_on})"
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of writing a file that is open name it, as those of opening do."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old content or the new, never half of it, also after a power failure."""
    aside = path.with_name(path.name + ".new")
    try:
        with naming(path), aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Have a file, or a folder's entries, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing for folders: there a rename is on the server when it returns.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
