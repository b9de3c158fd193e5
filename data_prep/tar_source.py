"""Images that lie in tars, read where they lie.

A tar stores its members as they are. Once a walk through the headers has told where each image's bytes begin, any of
them is read by one ``pread``, in whatever order the plan asks for, and nothing is ever unpacked.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .clean import MAX_BYTES
from .split import Split


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Bytes of a file.

    Raises:
        OSError: if they cannot be read, or are more than any image can need.
    """
    if size > MAX_BYTES:
        # The size is the word of a header, for which no memory is laid out.
        raise OSError(errno.EFBIG, f"{size:,} bytes; at most {MAX_BYTES:,} are taken")
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.pread(handle, size, offset)
    finally:
        os.close(handle)
    if len(content) != size:
        raise OSError(errno.EIO, f"{path} ends early")
    return content


@dataclass(frozen=True)
class Places:
    """Where each of some named images lies.

    Attributes:
        files: the tars.
        names: of the images, unique.
        table: ``(len(names), 3)`` uint64: number of the file, offset, size.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    table: npt.NDArray[np.uint64]

    @classmethod
    def gather(cls, files: Iterable[Path], found: Iterable[tuple[str, int, int, int]]) -> Places:
        """Collect images, given as (name, number of the file, offset, size), without a tuple for each at the end."""
        names: list[str] = []
        flat = array("Q")
        for name, *place in found:
            names.append(name)
            flat.extend(place)
        return cls(tuple(files), tuple(names), np.frombuffer(flat, np.uint64).reshape(-1, 3))

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def read(self, name: str) -> bytes:
        """The bytes of one image.

        Raises:
            OSError: if they cannot be read.
        """
        file, offset, size = self.table[self._rows[name]].tolist()
        return read_at(self.files[file], offset, size)

    def only(self, names: Sequence[str]) -> Places:
        """The places of these images, with the tars that hold them."""
        rows = self.table[[self._rows[name] for name in names]]
        used, numbers = np.unique(rows[:, 0], return_inverse=True)
        rows[:, 0] = numbers.reshape(-1)
        return Places(tuple(self.files[number] for number in used.tolist()), tuple(names), rows)

    def __getstate__(self) -> dict[str, object]:
        return {"files": self.files, "names": self.names, "table": self.table}


@dataclass(frozen=True)
class TarSource:
    """A source whose images lie in tars.

    Attributes:
        kind: short name of the sort of source and what was chosen about it.
        root: the folder of the tars.
        places: where the images of all splits lie.
        splits: by name.
        remarks: what the user should be told.
    """

    kind: str
    root: Path
    places: Places = field(repr=False)
    splits: Mapping[str, Split] = field(default_factory=dict, repr=False)
    remarks: Sequence[str] = ()

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """The member of that name, untouched."""
        return self.places.read(name)

    def only(self, names: Sequence[str]) -> TarSource:
        """These images' places and nothing else."""
        return replace(self, places=self.places.only(names), splits={}, remarks=())
