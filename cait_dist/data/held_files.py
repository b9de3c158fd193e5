"""Open, locked files, and what a fork does to them.

The locks are ``flock``'s: they belong to the opened file, not to the process, and the system takes them away when the
last process that has it open ends, however it ends. That makes a dead process's locks vanish by themselves. It also
means that a forked child, which has all its parent's files open without knowing, would keep the parent's locks alive
and the space of removed files occupied. So a child closes them first thing, and no fork happens between the opening of
a file and its entry in the list of those to close.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

_guard = threading.Lock()
_held: set[int] = set()


def hold(path: Path, flags: int, lock: int) -> int:
    """Open a file and lock it; returns the descriptor, for `release`.

    Args:
        path: the file.
        flags: as for `os.open`.
        lock: as for `fcntl.flock`.

    Raises:
        FileNotFoundError: if it is not there, and ``flags`` do not make it.
        BlockingIOError: if ``lock`` does not wait and somebody else has it.
    """
    with _guard:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        _held.add(descriptor)
    try:
        fcntl.flock(descriptor, lock)
    except BaseException:
        release(descriptor)
        raise
    return descriptor


def release(descriptor: int) -> None:
    """Unlock and close."""
    with _guard:
        _held.discard(descriptor)
        # Not left to the closing: should a copy exist after all, the lock must not live on in it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _forget_parents_files() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forget_parents_files)
