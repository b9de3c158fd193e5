"""Read a few files of a published data set, out of the archive it came in or the folder that it was unpacked to.

Lists of labels and class names come as pickles, JSON or MATLAB files. Whatever they are, they come from outside: they
are bounded in size before they are read, and whatever their readers stumble over is told with the file and the remedy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError
from .gzip_tar import opened_tar
from .mat_file import MatError, Value, parse_mat
from .tar_walk import FETCH_AGAIN, walk

_MEGABYTE = 2**20


@dataclass(frozen=True)
class PublishedFiles:
    """Some files of a data set.

    Attributes:
        place: the archive or folder they are from.
        content: by name, without folders; what is missing there is missing here.
        remedy: how to get sound ones.
    """

    place: Path
    content: Mapping[str, bytes]
    remedy: str

    def require(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataPrepError: if it is missing.
        """
        if name not in self.content:
            raise DataPrepError(f"{self.place}: lacks the file {name}; {self.remedy}")
        return self.content[name]

    def refuse(self, name: str, what: object) -> DataPrepError:
        """The error that a file is not as it should be."""
        where = self.place if self.place.name == name else f"{self.place}: {name}"
        # Other packages' reasons may have several lines.
        return DataPrepError(f"{where} {' '.join(str(what).split())}; {self.remedy}")


def read_packed(archive: Path, names: Collection[str], most_megabytes: int) -> PublishedFiles:
    """Files out of a ``.tar.gz``, in whatever folder of it they lie; nothing is unpacked.

    Raises:
        DataPrepError: if the archive is damaged or a file has more than ``most_megabytes``.
    """
    files: dict[str, bytes] = {}
    with opened_tar(archive) as tar:
        for member in walk(archive, tar):
            name = PurePosixPath(member.name).name
            if name not in names:
                continue
            if name in files:
                raise DataPrepError(f"{archive}: holds {name} twice; {FETCH_AGAIN}")
            tar.seek(member.offset_data)
            files[name] = _bounded(archive, name, member.size, tar, most_megabytes)
    return PublishedFiles(archive, files, f"fetch {archive.name} again")


def read_unpacked(folder: Path, names: Collection[str], most_megabytes: int) -> PublishedFiles:
    """The same files out of a folder.

    Raises:
        DataPrepError: if a file cannot be read or has more than ``most_megabytes``.
    """
    files = {}
    for name in names:
        path = folder / name
        try:
            if path.is_file():
                with path.open("rb") as file:
                    files[name] = _bounded(folder, name, path.stat().st_size, file, most_megabytes)
        except OSError as error:
            raise DataPrepError(f"{path}: cannot be read ({error.strerror or error}); check the storage") from None
    return PublishedFiles(folder, files, "fetch it again")


def _bounded(place: Path, name: str, size: int, file: IO[bytes], most_megabytes: int) -> bytes:
    if size > most_megabytes * _MEGABYTE:
        raise DataPrepError(
            f"{place}: {name} has {size:,} bytes, more than {most_megabytes} MB; is it the published file?"
        )
    return file.read(size)


def read_mat(files: PublishedFiles, name: str, variables: Sequence[str]) -> dict[str, Value]:
    """Variables of a MATLAB file.

    Raises:
        DataPrepError: if the file is missing or damaged, or lacks one of them.
    """
    raw = files.require(name)
    try:
        found = parse_mat(raw, variables)
    except MatError as error:
        raise files.refuse(name, error) from None
    for key in variables:
        if key not in found:
            raise files.refuse(name, f"has no variable {key}")
    return found


def whole_numbers(files: PublishedFiles, name: str, what: str, value: Value) -> npt.NDArray[np.int64]:
    """Numbers of a MATLAB file as integers, ``(n,)``: from an array, or one from each entry of a list.

    MATLAB stores them as floats more often than not.

    Raises:
        DataPrepError: if they are none.
    """
    parts = value if isinstance(value, list) else [value]
    single = isinstance(value, list)
    if any(not isinstance(part, np.ndarray) or (single and len(part) != 1) for part in parts):
        raise files.refuse(name, f"has {what} that are no whole numbers")
    plain = np.concatenate([np.empty(0), *(np.asarray(part, np.float64) for part in parts)])
    if not (np.abs(plain) < 2**31).all() or (plain != np.rint(plain)).any():
        raise files.refuse(name, f"has {what} that are no whole numbers")
    return plain.astype(np.int64)


def require_range(
    files: PublishedFiles, name: str, what: str, values: npt.NDArray[np.int64], first: int, last: int
) -> None:
    """Refuse numbers outside ``first`` … ``last``.

    Raises:
        DataPrepError: naming the first of them.
    """
    outside = np.flatnonzero((values < first) | (values > last))
    if len(outside):
        place = int(outside[0])
        raise files.refuse(name, f"has the {what} {values[place]} at place {place + 1}, outside of {first} to {last}")
