"""Can MLflow be reached? Never a reason to refuse: the run directory is the truth, and `cait track sync` fills gaps."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from cait_dist.tracking.probe import TIMEOUT, probe

SQLITE, POSTGRES, POSTGRES_PORT = "sqlite:///", "postgresql", 5432


def unreachable(uri: str) -> str | None:
    """Why nothing can be sent to this tracking URI, or None."""
    if uri.startswith(SQLITE):
        return _cannot_write(Path(uri.removeprefix(SQLITE)))
    if uri.startswith(POSTGRES):
        return _nobody_listens(uri)
    return probe(uri).text or None


def _nobody_listens(uri: str) -> str | None:
    parts = urlsplit(uri)
    if parts.hostname is None:
        return None  # a socket of this machine, or a host that libpq finds in its own variables
    try:
        socket.create_connection((parts.hostname, parts.port or POSTGRES_PORT), TIMEOUT).close()
    except OSError as error:
        return f"{parts.hostname}:{parts.port or POSTGRES_PORT} does not answer ({error})"
    return None


def _cannot_write(database: Path) -> str | None:
    place = database if database.exists() else nearest(database.parent)
    if place != database and not place.is_dir():
        return f"{place} is not a folder"
    return None if os.access(place, os.W_OK) else f"{place} cannot be written"


def nearest(folder: Path) -> Path:
    """The folder, or the one above it in which it would be made."""
    return next(place for place in (folder, *folder.resolve().parents) if place.exists())
