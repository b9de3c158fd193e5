"""Can MLflow be reached? Never a reason to refuse: the run directory is the truth, and `cait track sync` fills gaps."""

import os
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT = 3.0
SQLITE = "sqlite:///"


def unreachable(uri: str) -> str | None:
    """Why nothing can be sent to this tracking URI, or None."""
    if uri.startswith(SQLITE):
        return _cannot_write(Path(uri.removeprefix(SQLITE)))
    place = f"{uri.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(place, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        # A gateway may ask for a password that only MLflow's client has: somebody is there, at least.
        return None if error.code in (401, 403) else f"{place} answers with status {error.code}"
    except (OSError, ValueError) as error:
        return f"{place} does not answer ({getattr(error, 'reason', error)})"


def _cannot_write(database: Path) -> str | None:
    place = database if database.exists() else nearest(database.parent)
    if place != database and not place.is_dir():
        return f"{place} is not a folder"
    return None if os.access(place, os.W_OK) else f"{place} cannot be written"


def nearest(folder: Path) -> Path:
    """The folder, or the one above it in which it would be made."""
    return next(place for place in (folder, *folder.resolve().parents) if place.exists())
