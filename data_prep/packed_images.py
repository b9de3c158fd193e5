"""Images that lie in one archive per data set, as ``102flowers.tgz``, or in the folder that it unpacks to.

A plain tar is read where it lies (see `tar_source`). A compressed one cannot be: to reach its last image, all before it
must be decompressed. So it is walked through once to learn what it holds, and when the first image is asked for, it is
decompressed as a whole into a spill, a plain tar, from which any image is read by its place. The price is room on disk
for the archive once more, in a hidden folder of the output that is removed at the end.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from .errors import DataPrepError, some
from .files import whole_file
from .gzip_tar import is_gzip, opened_tar
from .parquet_spill import spill_once
from .split import Split
from .tar_source import Places, read_at
from .tar_walk import FETCH_AGAIN, walk

Found = tuple[str, int, int, int]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ImageStore:
    """What an archive or a folder holds.

    Attributes:
        place: the archive or the folder.
        names: of all its files, as they are named in the archive: ``jpg/image_00001.jpg``.
        spots: for an archive, offset and size of each within the tar.
    """

    place: Path
    names: Collection[str] = field(repr=False)
    spots: Mapping[str, tuple[int, int]] = field(repr=False)

    def require(self, names: Sequence[str], listed_in: object) -> None:
        """Refuse a store that lacks images.

        Raises:
            DataPrepError: naming some of them.
        """
        if missing := [name for name in names if name not in self.names]:
            raise DataPrepError(
                f"{self.place}: lacks {len(missing):,} of the {len(names):,} images that {listed_in} lists: "
                f"{some(missing, 3)}; fetch or unpack it again"
            )


def find_store(root: Path, folder: str, archives: Sequence[str]) -> ImageStore:
    """List the images of the first archive that is there, or else of the folder.

    Args:
        root: the data set's folder.
        folder: that the archives unpack to.
        archives: names that the archive may have.

    Raises:
        DataPrepError: if there is neither, or it cannot be read.
    """
    for archive in (root / name for name in archives):
        if archive.is_file():
            spots = dict(_members(archive))
            return ImageStore(archive, spots, spots)
    if (root / folder).is_dir():
        return ImageStore(root / folder, set(_files(root, folder)), {})
    raise DataPrepError(f"{root}: holds neither {archives[0]} nor the folder {folder}; put one of them there")


def _members(archive: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    seen: set[str] = set()
    with opened_tar(archive) as file:
        for member in walk(archive, file):
            name = member.name.removeprefix("./")
            if name in seen:
                raise DataPrepError(f"{archive}: holds {name!r} twice; {FETCH_AGAIN}")
            seen.add(name)
            yield name, (member.offset_data, member.size)


def _files(root: Path, folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise DataPrepError(f"{error.filename}: cannot be read ({error.strerror}); check the storage") from None

    for parent, _, files in os.walk(root / folder, onerror=refuse):
        relative = Path(parent).relative_to(root).as_posix()
        yield from (f"{relative}/{name}" for name in files)


@dataclass(frozen=True)
class PackedSource:
    """A source whose images lie in archives, or in the folders that these unpack to.

    Attributes:
        kind: short name of the data set.
        root: its folder.
        places: where images lie in the archives; the others are files below the folder.
        splits: by name.
        remarks: what the user should be told.
        compressed: the archives that are.
        scratch: folder for spills; set by `keeping_in`.
    """

    kind: str
    root: Path
    places: Places = field(repr=False)
    splits: Mapping[str, Split] = field(default_factory=dict, repr=False)
    remarks: Sequence[str] = ()
    compressed: frozenset[Path] = frozenset()
    scratch: Path | None = None

    @classmethod
    def of(
        cls, kind: str, root: Path, stores: Sequence[ImageStore], splits: Mapping[str, Split], remarks: Sequence[str]
    ) -> PackedSource:
        """A source of images that some stores were found to hold."""
        wanted = [name for split in splits.values() for name in split.names]
        found = (
            (name, number, *store.spots[name])
            for number, store in enumerate(stores)
            for name in wanted
            if name in store.spots
        )
        places = Places.gather([store.place for store in stores], found)
        compressed = frozenset(store.place for store in stores if store.spots and is_gzip(store.place))
        if left := sum(len(store.names) for store in stores) - len(wanted):
            remarks = [*remarks, f"{root}: {left:,} files beside the images are ignored, as no list names them"]
        return cls(kind, root, places, splits, tuple(remarks), compressed)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    @cached_property
    def _packed(self) -> Mapping[str, tuple[int, int, int]]:
        return dict(zip(self.places.names, map(tuple, self.places.table.tolist()), strict=True))

    def read(self, name: str) -> bytes:
        """The image of that name, untouched.

        Raises:
            OSError: if it cannot be read.
            DataPrepError: if its archive is damaged, or there is no room for the spill.
        """
        if name not in self._packed:
            return (self.root / name).read_bytes()
        number, offset, size = self._packed[name]
        archive = self.places.files[number]
        return read_at(self._spill(archive) if archive in self.compressed else archive, offset, size)

    def _spill(self, archive: Path) -> Path:
        if self.scratch is None:
            raise RuntimeError("`keeping_in` must be called before a compressed archive is read")
        state = archive.stat()
        identity = f"{archive.name}\0{state.st_size}\0{state.st_mtime_ns}"
        spill = self.scratch / hashlib.sha256(identity.encode()).hexdigest()[:32]
        if not spill.exists():
            spill_once(archive, spill, lambda: _decompress(archive, spill))
        return spill

    def only(self, names: Sequence[str]) -> PackedSource:
        """These images' places and nothing else."""
        packed = [name for name in names if name in self._packed]
        return replace(self, places=self.places.only(packed), splits={}, remarks=())

    def keeping_in(self, scratch: Path) -> PackedSource:
        """This source with a folder for what it must keep until preparation is finished."""
        return replace(self, scratch=scratch)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}


def _decompress(archive: Path, spill: Path) -> None:
    try:
        with gzip.open(archive) as packed, whole_file(spill) as file:
            shutil.copyfileobj(packed, file, _CHUNK)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataPrepError(f"{archive}: damaged or cut off ({error}); {FETCH_AGAIN}") from None
