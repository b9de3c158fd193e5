"""Write one shard: an ordinary WebDataset tar that comes out byte for byte the same every time.

Members are pairs ``00000017.cls`` (the label as text) and ``00000017.jpg`` (or ``.png``), the number being the sample's
place in the plan. Owner and time are fixed, so the bytes depend on the images alone. The tar is written under another
name and renamed when it is safely on the disk: a file with a shard's name is a whole shard.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from .clean import is_png
from .errors import DataPrepError
from .files import whole_file


class StoredShard(NamedTuple):
    """What was written.

    Attributes:
        size: bytes of the tar.
        sha256: its checksum in hexadecimal.
        places: per sample, in order: offset and size of its image within the tar.
    """

    size: int
    sha256: str
    places: list[tuple[int, int]]


class _HashingFile:
    """A file that hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.size += len(content)
        return self._file.write(content)


def write_shard(path: Path, samples: Iterable[tuple[int, bytes, int]]) -> StoredShard:
    """Write a shard aside, make it durable, and give it its name.

    Args:
        path: the shard's name.
        samples: triples (number, bytes of a JPEG or PNG, label); numbers ascend.

    Raises:
        DataPrepError: if the disk is full or may not be written to.
    """
    try:
        with whole_file(path) as file:
            return _write_tar(file, samples)
    except OSError as error:
        raise DataPrepError(
            f"{path}: cannot be written ({error.strerror or error}); make room or choose another --out"
        ) from None


def _write_tar(file: IO[bytes], samples: Iterable[tuple[int, bytes, int]]) -> StoredShard:
    import webdataset  # noqa: PLC0415 - imports torch

    hashing = _HashingFile(file)
    with webdataset.TarWriter(hashing, user="", group="", mtime=0, encoder=False) as writer:
        for number, image, label in samples:
            extension = "png" if is_png(image) else "jpg"
            writer.write({"__key__": f"{number:08d}", extension: image, "cls": str(label).encode()})
    file.flush()
    return StoredShard(hashing.size, hashing.sha256.hexdigest(), _find_places(Path(file.name)))


def _find_places(path: Path) -> list[tuple[int, int]]:
    """Read back where the images came to lie, rather than assume it."""
    with tarfile.open(path) as tar:
        return [(member.offset_data, member.size) for member in tar if member.name.endswith((".jpg", ".png"))]
