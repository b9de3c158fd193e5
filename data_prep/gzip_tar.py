"""A tar for `tar_walk`, compressed or not.

Published data sets come as ``.tar.gz``. Walking through one means to decompress all of it, once; the walk goes to the
very end, where gzip keeps a checksum, so what has been walked through is known to be whole.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from .errors import DataPrepError
from .tar_walk import FETCH_AGAIN, opened

_CHUNK = 1 << 20


@contextlib.contextmanager
def opened_tar(path: Path) -> Iterator[IO[bytes]]:
    """A tar, opened for `tar_walk.walk`, which reads it forwards.

    Raises:
        DataPrepError: if it cannot be opened.
    """
    with opened(path) as file:
        yield cast("IO[bytes]", Decompressed(path, file)) if is_gzip(path) else file


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, whatever its name says: some browsers decompress what they fetch.

    Raises:
        DataPrepError: if it cannot be opened.
    """
    with opened(path) as file:
        return file.read(2) == b"\x1f\x8b"


class Decompressed(io.RawIOBase):
    """The content of a gzip file as a file that is read forwards.

    A walk looks back a little, from a tar's end mark to the last member, and to go back in a gzip file means to begin
    again. So the last megabyte is remembered.
    """

    def __init__(self, place: Path, file: IO[bytes]) -> None:
        self._place, self._gzip = place, gzip.GzipFile(fileobj=file)
        self._recent, self._end, self._position = b"", 0, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, forwards and within what is remembered."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place counted from the beginning."""
        if whence != os.SEEK_SET or offset < self._end - len(self._recent):
            raise ValueError("a compressed file is only read forwards")
        self._position = offset
        return offset

    def tell(self) -> int:
        """The place."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, fewer at the end only."""
        left = size if size >= 0 else sys.maxsize
        parts = []
        while left and (self._position < self._end or self._more()):
            start = self._position - (self._end - len(self._recent))
            parts.append(self._recent[start : start + left])
            self._position += len(parts[-1])
            left -= len(parts[-1])
        return b"".join(parts)

    def _more(self) -> bool:
        """Decompress to beyond the place; False if the file ends before it."""
        while self._end <= self._position:
            try:
                chunk = self._gzip.read(_CHUNK)
            except (OSError, EOFError, zlib.error) as error:
                raise DataPrepError(f"{self._place}: damaged or cut off ({error}); {FETCH_AGAIN}") from None
            if not chunk:
                return False
            self._recent = self._recent[-_CHUNK:] + chunk
            self._end += len(chunk)
        return True
