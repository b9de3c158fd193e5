"""Files that a command is asked to write: where they cannot be, one line says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputError(ValueError):
    """A file or folder cannot be written; the message names it and why."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Around whatever writes a file or makes a folder.

    Raises:
        OutputError: in place of the system's error
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error


def output_folder(path: Path) -> Path:
    """Make a folder before the work whose results it is to hold.

    Raises:
        OutputError: if it cannot be made
    """
    with writing(path):
        path.mkdir(exist_ok=True)
    return path
