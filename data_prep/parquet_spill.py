"""Copy the images of a parquet file to a file from which any of them is read by its place.

A *spill* holds the images' bytes one after the other, then a table of where each begins, then their number. It is
written in one pass, so its cost grows with the number of images; memory holds a few of the parquet file's pages, which
pyarrow, for one, ends after 1,024 rows, and never a row group, which may be a whole file. Spills are whole or absent
and are named by the state of their parquet file. So neither the workers here nor those of a job array on other machines
need agree on anything: whoever needs a spill makes it, and if two do at a time on different machines the work is done
twice.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import DataPrepError
from .files import whole_file
from .parquet_columns import opened_parquet
from .tar_source import read_at

# A row with a large photograph has 10 MB and more.
_ROWS_AT_ONCE = 16
_COUNT = struct.Struct("=Q")
_PLACE = struct.Struct("=QQ")


def make_spill(path: Path, column: str, spill: Path) -> None:
    """Copy a column of images, unless another process of this machine does it meanwhile.

    Raises:
        DataPrepError: if the parquet file is damaged or the spill cannot be written.
    """
    spill_once(path, spill, lambda: _write_spill(path, column, spill))


def spill_once(path: Path, spill: Path, write: Callable[[], None]) -> None:
    """Have the spill of a file written, unless another process of this machine does it meanwhile.

    Args:
        path: the file.
        spill: where to; its folder is made.
        write: writes it, whole or not at all.

    Raises:
        DataPrepError: if the spill cannot be written.
    """
    try:
        spill.parent.mkdir(parents=True, exist_ok=True)
        with spill.with_suffix(".lock").open("w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks: the work may be done twice
                fcntl.lockf(lock, fcntl.LOCK_EX)
            if not spill.exists():
                write()
    except OSError as error:
        raise DataPrepError(
            f"{spill.parent}: cannot hold the images of {path} while they are prepared ({error.strerror or error}); "
            "make room, or choose another --out"
        ) from None


def _write_spill(path: Path, column: str, spill: Path) -> None:
    ends = array("Q", [0])
    with whole_file(spill) as file:
        for content in _contents(path, column):
            file.write(content)
            ends.append(ends[-1] + len(content))
        file.write(ends.tobytes())
        file.write(_COUNT.pack(len(ends) - 1))


def _contents(path: Path, column: str) -> Iterator[bytes]:
    with opened_parquet(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column], use_threads=False):
            # Flattened, a struct that is null as a whole has null fields.
            values = batch.column(0).flatten()[0] if "." in column else batch.column(0)
            for value in values:
                yield value.as_py() or b""


def read_spilled(spill: Path, row: int) -> bytes:
    """The image of one row.

    Raises:
        OSError: if it cannot be read.
    """
    size = spill.stat().st_size
    (count,) = _COUNT.unpack(read_at(spill, size - _COUNT.size, _COUNT.size))
    if row >= count:
        raise OSError(errno.EIO, f"has no row {row}, only {count}")
    table = size - _COUNT.size - (count + 1) * _COUNT.size
    begin, end = _PLACE.unpack(read_at(spill, table + row * _COUNT.size, _PLACE.size))
    return read_at(spill, begin, end - begin)
