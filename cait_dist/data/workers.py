"""How a decoding worker behaves towards signals.

A terminal's Ctrl-C and a cluster's "time is up" reach every process of a job, not only the one that knows what to do
about it. A worker that dies of them takes the training down in the middle of the step that should have led to a
checkpoint. So workers leave signals to their parent:

* SIGINT, SIGUSR1 and SIGUSR2 are ignored;
* the first SIGTERM is ignored, the second kills. A scheduler that wants the job to save sends one to everybody;
  torch, when a worker does not stop as told, sends its own, and again when the interpreter exits.

A worker whose parent is gone is ended by Linux: it would hold the lock of the run directory, which it has inherited,
and who starts the run again would be told that it is in use. Elsewhere it notices within seconds (torch looks every
five).

And a worker that is killed leaves nothing behind. It hands its batches over through a socket, which Python would give
a name in a fresh folder for temporary files; nobody is left to remove that folder after a kill. On Linux a socket needs
no file.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from multiprocessing import connection, util


def prepare_worker(_: int) -> None:
    """Set up a worker; given to torch's data loader, which calls it in each worker."""
    _end_with_parent()
    if util.abstract_sockets_supported:
        connection.arbitrary_address = _address_without_file  # type: ignore[attr-defined]
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _survive_once)


def _end_with_parent() -> None:
    # Strictly with the thread that made the worker: whoever makes a loader uses it to its end.
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL))


def _address_without_file(family: str) -> str:
    assert family == "AF_UNIX", "the family that Python prefers on Linux"
    return f"\0cait-{os.getpid()}-{secrets.token_hex(8)}"


def _survive_once(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)
