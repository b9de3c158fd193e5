"""What must be so of every input: success or a refusal meant for users, soon, in little memory, without side effects.

Used in a process of its own: the limits are the process's, and what watches it cannot be taken away again.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cait_dist.config.errors import ConfigError
from cait_dist.errors import is_for_user

SECONDS = 10
"""For one input, by all of a target's readers: a hundred times what it takes on two busy cores."""
MEGABYTES = 512
"""That the process may grow by, address space included, once everything is imported."""

_MEMORY = "/dev/shm"
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
         "socket.connect", "ctypes.dlopen", "code.__new__")  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
            "os.chown", "shutil.rmtree", "shutil.copyfile", "shutil.move")  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def workplace(name: str) -> Path:
    """A fresh folder in memory, where there is such a place: readers that keep an index have it flushed to the disk."""
    return Path(tempfile.mkdtemp(prefix=f"cait-fuzz-{name}-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))


class BrokenPromise(Exception):  # noqa: N818 - not an error of the program's
    """A reader did what no input may make it do."""


class Watch:
    """Watches this process from now on.

    Args:
        scratch: the only folder that may be written to.
        current: file that holds the case being tried, so that one is left where the process is killed.
    """

    def __init__(self, scratch: Path, current: Path) -> None:
        self._scratch, self._current, self._active = os.fspath(scratch.resolve()), current, False
        self._broken: list[str] = []
        sys.addaudithook(self._look)

    def limit_memory(self, megabytes: int = MEGABYTES) -> None:
        """Let the process grow by so much and no more."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def judge(self, case: bytes, readers: list[Callable[[], object]]) -> list[bool]:
        """Call every reader; returns which of them found nothing to refuse.

        Raises:
            BrokenPromise: if one did anything but succeed or refuse.
        """
        self._current.write_bytes(case)
        # A thread of its own: it ends the process even where a loop in C never looks at signals.
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            return [self._accepts(read) for read in readers]
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _accepts(self, read: Callable[[], object]) -> bool:
        self._active = True
        try:
            read()
            accepted = True
        except ValueError as error:
            self._active, accepted = False, False
            _check_refusal(error)
        finally:
            self._active = False
        if self._broken:
            found, self._broken = self._broken, []
            raise BrokenPromise("; ".join(found))
        return accepted

    def _look(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._active:
            return
        if event.startswith(_RUNS):
            self._broken.append(f"{event}{arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and isinstance(path, (str, bytes, os.PathLike)):
                self._refuse_outside(event, path)
        elif event in _CHANGES:
            for path in arguments:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._refuse_outside(event, path)

    def _refuse_outside(self, event: str, path: str | bytes | os.PathLike[str]) -> None:
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would open files of its own
        if not place.startswith(self._scratch) and place != os.devnull:
            self._broken.append(f"{event} {place}")


def _check_refusal(error: ValueError) -> None:
    if not is_for_user(error):
        raise BrokenPromise(f"not for users: {type(error).__module__}.{type(error).__name__}: {error}") from error
    text = str(error)
    # A configuration's problems have a line each; every other refusal is one line.
    lines = text.split("\n") if isinstance(error, ConfigError) else [text]
    if not all(line.isprintable() for line in lines):
        raise BrokenPromise(f"what a terminal would obey is in the message: {text[:400]!r}") from error
    if max(map(len, lines)) > 4000:
        raise BrokenPromise(f"a message of {len(text):,} characters: {text[:200]!r}") from error
