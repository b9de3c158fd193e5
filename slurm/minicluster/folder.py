"""The folder that a cluster lives in, seen from outside."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .conf_files import write_files
from .errors import MiniClusterError
from .settings import SETTINGS_FILE, Settings

_TEMPORARY = ("dev", "etc", "munge", "mysql", "nodes", "run", "state")
_LOG = "log"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from starting a cluster in this folder, which is made if need be.

    Raises:
        MiniClusterError: if somebody is at it, or if the folder holds anything else: ``down`` removes things from it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise MiniClusterError(f"{folder}: {error.strerror}: name another folder for the cluster") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(folder.iterdir()) and not (folder / SETTINGS_FILE).is_file():
            raise MiniClusterError(f"{folder} holds other things: name a new or empty folder for the cluster")
        yield
    except BlockingIOError:
        raise MiniClusterError(f"a cluster is just being started in {folder}") from None
    finally:
        os.close(handle)


def prepare(folder: Path, settings: Settings) -> None:
    """Lay out a new cluster; the logs of the last one go."""
    clear(folder)
    shutil.rmtree(folder / _LOG, ignore_errors=True)
    settings.save(folder)
    for name in (*_TEMPORARY, _LOG):
        (folder / name).mkdir()
    (folder / "munge").chmod(0o700)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    write_files(folder, settings)


def clear(folder: Path) -> None:
    """Remove all but the logs and the settings."""
    for name in _TEMPORARY:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "holder").unlink(missing_ok=True)


def last_words(folder: Path) -> str:
    """The last line that the holder wrote, which is its error if it ended."""
    try:
        lines = (folder / _LOG / "holder.log").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), f"see {folder}/{_LOG}")
