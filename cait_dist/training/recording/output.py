"""What a rank prints, where printing must not end it: its log lies on the run's disk, which may be full.

A line that cannot be written is lost; the first that can be begins anew, however much of the one before it is there.
"""

import io
import sys
from typing import TYPE_CHECKING

from cait_dist.tracking.storage import is_about_storage

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class LossyFile(io.FileIO):
    """A file that forgets what the file system does not take."""

    _torn = False

    def write(self, data: "ReadableBuffer") -> int:
        """Write, or lose it; returns the number of bytes that need not be written again."""
        content = memoryview(data).cast("B")
        try:
            if self._torn:
                super().write(b"\n")
                self._torn = False
            return super().write(content)
        except OSError as error:
            if not is_about_storage(error):
                raise
            self._torn = True
            return len(content)


def print_without_fail() -> None:
    """Have this process's output be lost where it cannot be written, instead of an error at some line of it."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = LossyFile(descriptor, "w", closefd=False)
        text = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        getattr(sys, name).flush()
        setattr(sys, name, text)
