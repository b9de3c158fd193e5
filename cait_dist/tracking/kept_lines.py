"""A file of lines that loses none where the disk is full for a while.

A line that cannot be written is kept in memory, with those that follow, and written as soon as the file system takes
it again. Nothing raises: a curve is no reason to end a run. After an error the file is opened anew (a server that came
back may have given it another handle), and what was written of a line is cut off, so the file holds whole lines only.

The memory has a bound. Beyond it every second of the kept lines is given up, but for those that a picture could not do
without; so a curve becomes coarser, not shorter.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

MOST_BYTES = 32 * 2**20
"""Of kept lines: some tens of thousands."""
_LONGEST_LINE = 1 << 20


class KeptLines:
    """Appends JSON objects to a file, one a line, each at once.

    Args:
        path: of the file; may hold lines already
        say: tells the user something
        written: told of each line once it is in the file: its content and its length in bytes
        may_go: whether a line may be given up where too many are kept
        most_bytes: of kept lines
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None],
        written: Callable[[Mapping[str, Any], int], None],
        may_go: Callable[[Mapping[str, Any]], bool],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._path, self._say, self._written, self._may_go, self._most = path, say, written, may_go, most_bytes
        self._kept: deque[tuple[Mapping[str, Any], bytes]] = deque()
        self._file: FileIO | None = None
        self._error: OSError | None = None
        self._late, self._given_up = 0, 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a line, after those that wait; or keep it."""
        self._kept.append((row, (json.dumps(row, allow_nan=False) + "\n").encode()))
        self._write_kept()
        if self._error is not None:
            self._late += 1
            self._thin()

    def close(self) -> None:
        """Try for the last time; say so if lines are lost."""
        self._write_kept()
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._say(f"{self._path} may be incomplete ({error.strerror}): look after its file system")
        self._close_file()
        if self._kept:
            steps = [row["step"] for row, _ in self._kept if "step" in row] or [0]
            self._say(
                f"{len(self._kept)} lines of {self._path} are lost (steps {min(steps)} to {max(steps)}):"
                f" {self._reason}; free space there"
            )

    def _write_kept(self) -> None:
        try:
            while self._kept:
                row, line = self._kept[0]
                self._put(line)
                self._kept.popleft()
                self._written(row, len(line))
        except OSError as error:
            self._close_file()
            self._trouble(error)
            return
        self._well_again()

    def _put(self, line: bytes) -> None:
        if self._file is None:
            self._file = _open_whole(self._path)
        while line:
            line = line[self._file.write(line) or 0 :]

    def _trouble(self, error: OSError) -> None:
        first, self._error = self._error is None, error
        if first:
            self._say(
                f"{self._path} cannot be written ({self._reason}): training goes on and keeps its lines in memory"
                f" until they can be; free space there"
            )

    def _well_again(self) -> None:
        if self._error is None:
            return
        lost = f", {self._given_up} had become too many and are lost" if self._given_up else ""
        self._say(f"{self._path} is written again: {self._late - self._given_up} lines that were kept are there{lost}")
        self._error, self._late, self._given_up = None, 0, 0

    @property
    def _reason(self) -> str:
        assert self._error is not None
        return self._error.strerror or str(self._error)

    def _thin(self) -> None:
        if sum(len(line) for _, line in self._kept) <= self._most:
            return
        before, rows = len(self._kept), enumerate(self._kept)
        self._kept = deque(entry for number, entry in rows if number % 2 or not self._may_go(entry[0]))
        self._given_up += before - len(self._kept)

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _open_whole(path: Path) -> FileIO:
    """Open a file to append to it, and cut off a line without its end."""
    file = FileIO(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644), "a+")
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        torn = file.readall().rpartition(b"\n")[2]
        if torn:
            file.truncate(size - len(torn))
    except OSError:
        file.close()
        raise
    return file
