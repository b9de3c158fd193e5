"""Walk through the headers of a tar that somebody else has written, and believe nothing.

A tar is input from outside. Nothing is ever extracted, so a member cannot be written to where it should not be; links,
devices and names that leave the archive are refused all the same, because a reader that follows them is one careless
change away. And a damaged header ends a tar silently for Python's ``tarfile``, so the end is checked to be one.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from .errors import DataPrepError, some_text

FETCH_AGAIN = "fetch or write it again"
MAX_HEADER_BYTES = 2**20


def find_tars(folder: Path) -> list[Path]:
    """The tars of a folder in the order of their names; none if there is no such folder."""
    return sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A tar, opened for `walk`.

    Raises:
        DataPrepError: if it cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataPrepError(f"{path}: cannot be opened ({error.strerror or error}); check the storage") from None
    with file:
        yield file


class View(io.RawIOBase):
    """A part of an open file as a file of its own: a tar within a tar. Reading does not move the file's position."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._handle, self._offset, self._size, self._position = file.fileno(), offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place counted from the beginning of the part."""
        if whence != os.SEEK_SET or offset < 0:
            raise ValueError("a view is only moved to places counted from its beginning")
        self._position = offset
        return offset

    def tell(self) -> int:
        """The place."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, none beyond the part's end."""
        left = max(self._size - self._position, 0)
        content = os.pread(self._handle, left if size < 0 else min(size, left), self._offset + self._position)
        self._position += len(content)
        return content


def walk(place: object, file: IO[bytes] | View) -> Iterator[tarfile.TarInfo]:
    """The plain files of an uncompressed tar in the order in which they are stored, header by header.

    Args:
        place: which tar it is, for messages.
        file: the tar, from its first byte to its last; for a tar within a tar, a view of that part.

    Raises:
        DataPrepError: if the tar is damaged or cut off, or holds a member that has no business in it.
    """
    end = 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Headers(place, file)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # or it would keep all it has met
                _refuse_odd(place, member, end)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not member.isdir():
                    yield member
            _check_end(place, file, end)
    except DataPrepError:
        raise
    # Besides its own, tarfile raises what its parts do: a chain of headers that nests too deeply, a size like 2**200.
    except (tarfile.TarError, EOFError, RecursionError, ValueError, OverflowError) as error:
        raise DataPrepError(f"{place}: not a whole, uncompressed tar ({error}); {FETCH_AGAIN}") from None
    except OSError as error:
        raise DataPrepError(f"{place}: cannot be read ({error.strerror or error}); check the storage") from None


class _Headers:
    """A tar of which only headers are read, as `tarfile` does: one that asks for more than any header can need is told.

    Long names and other attributes lie in headers of their own, which state their length.
    """

    def __init__(self, place: object, file: IO[bytes] | View) -> None:
        self._place, self._file = place, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise DataPrepError(f"{self._place}: a header of {size:,} bytes, which no tar needs; do not use this tar")
        return self._file.read(size)


def _refuse_odd(place: object, member: tarfile.TarInfo, end: int) -> None:
    shown = some_text(member.name, 200)
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise DataPrepError(f"{place}: the member {shown} points out of the archive; do not use this tar")
    # A negative size would send the walk backwards, and round in circles.
    if member.size < 0 or member.offset < end:
        raise DataPrepError(f"{place}: the member {shown} has an impossible size; do not use this tar")
    if not member.isdir() and (not member.isreg() or member.issparse()):
        raise DataPrepError(
            f"{place}: the member {shown} is a link, a device or sparse, not a plain file; do not use this tar"
        )


def _check_end(place: object, file: IO[bytes] | View, end: int) -> None:
    """After the last member there must be at least one empty block, and nothing else."""
    file.seek(end)
    first = file.read(tarfile.BLOCKSIZE)
    if len(first) < tarfile.BLOCKSIZE:
        raise DataPrepError(f"{place}: ends without a tar's end mark, so it may be cut off; {FETCH_AGAIN}")
    while first:
        if first.strip(b"\0"):
            raise DataPrepError(f"{place}: damaged after byte {end:,}, or several tars in one; {FETCH_AGAIN}")
        first = file.read(1 << 20)
