"""MLflow's database as one SQLite file beside the runs: one writer at a time.

A server takes care of many writers itself. A file does not: processes that come together would break it when it is
fresh and find it locked later. So whoever writes to it holds ``.mlflow.lock`` beside it.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SQLITE = "sqlite:///"
LOCK_SECONDS = 60.0


@contextmanager
def one_writer(uri: str) -> Iterator[None]:
    """Hold a database file for writing; nothing for a server.

    Raises:
        TimeoutError: when somebody else holds it for a minute
    """
    if not uri.startswith(SQLITE):
        yield
        return
    with Path(uri.removeprefix(SQLITE)).with_name(".mlflow.lock").open("w") as file:
        _lock(file.fileno(), file.name)
        yield


def _lock(descriptor: int, name: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held {name} for {LOCK_SECONDS:.0f} s") from None
            time.sleep(0.05)
