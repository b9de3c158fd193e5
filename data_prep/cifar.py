"""CIFAR-10 and CIFAR-100 as a source, in the python version (pickles) or the binary one, packed or unpacked.

Both hold the same images: rows of 3,072 bytes, 1,024 of red, then green, then blue, each 32 rows of 32. CIFAR-100 has
20 coarse and 100 fine classes; the fine ones are what is reported everywhere. An image goes by its place
(``data_batch_3/00017``), so either version, packed or not, makes the same data set to the byte.

An image is given out as a PNG and stored so: see `data_prep.clean` for why not as a JPEG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from .cifar_pickle import ForeignPickleError, pixel_rows, read_pickle, text
from .errors import DataPrepError
from .published_files import PublishedFiles, read_packed, read_unpacked, require_range
from .split import Split, set_aside_val

SIDE = 32
_BYTES = 3 * SIDE * SIDE
# The largest published file, CIFAR-100's train, has 155 MB.
_MOST_MEGABYTES = 512

Rows = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Version:
    """One way in which a CIFAR is published.

    Attributes:
        title: name of the data set.
        folder: that the archive unpacks to.
        archive: its name.
        train: names of the files of training images.
        test: name of the file of test images.
        meta: name of the file of class names.
        label: the pickles' key of the labels; for the binary version, number of the label's byte in each record.
        label_bytes: of each record in the binary version; 0 for pickles.
    """

    title: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str
    label: str | int
    label_bytes: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return (*self.train, self.test, self.meta)

    def is_in(self, root: Path) -> bool:
        """Whether a folder holds it, or is it."""
        is_it = (root / self.train[0]).is_file() and (root / self.meta).is_file()
        return is_it or (root / self.archive).is_file() or (root / self.folder).is_dir()

    def read(self, root: Path) -> PublishedFiles:
        """Its files; from the archive where there is one, which is sure to be whole.

        Raises:
            DataPrepError: if they cannot be read.
        """
        if (root / self.archive).is_file():
            return read_packed(root / self.archive, self.files, _MOST_MEGABYTES)
        folder = root / self.folder if (root / self.folder).is_dir() else root
        files = read_unpacked(folder, self.files, _MOST_MEGABYTES)
        return replace(files, remedy=f"unpack {self.archive} again")


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
    Version(
        "CIFAR-10", "cifar-10-batches-py", "cifar-10-python.tar.gz", _BATCHES, "test_batch", "batches.meta", "labels"
    ),
    Version("CIFAR-100", "cifar-100-python", "cifar-100-python.tar.gz", ("train",), "test", "meta", "fine_labels"),
    Version(
        "CIFAR-10", "cifar-10-batches-bin", "cifar-10-binary.tar.gz", tuple(f"{name}.bin" for name in _BATCHES),
        "test_batch.bin", "batches.meta.txt", 0, 1,
    ),
    Version(
        "CIFAR-100", "cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), "test.bin", "fine_label_names.txt",
        1, 2,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class CifarSource:
    """A CIFAR.

    Args:
        version: how it is published.
        root: the folder.
        held: pixels by name, of the images that a part of the source can read; None for the whole source, which reads
            its files when it is first asked, and again where it has travelled to.
    """

    version: Version
    root: Path
    held: Mapping[str, Rows] | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The data set's name, whichever version it is."""
        return self.version.title

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def remarks(self) -> Sequence[str]:
        """What has become of the test images."""
        return (f"{self.version.title}: its {len(self.splits['val'].names):,} test images are the split val",)

    @cached_property
    def _content(self) -> tuple[tuple[str, ...], Mapping[str, tuple[Rows, Labels]]]:
        """Class names, and pixels and labels of each file."""
        files = self.version.read(self.root)
        classes = _class_names(self.version, files)
        parse: Callable[[Version, PublishedFiles, str], tuple[Rows, Labels]]
        parse = _records if self.version.label_bytes else _pickled
        content = {}
        for name in (*self.version.train, self.version.test):
            rows, labels = parse(self.version, files, name)
            if not len(rows):
                raise files.refuse(name, "holds no images")
            require_range(files, name, "label", labels, 0, len(classes) - 1)
            content[name.removesuffix(".bin")] = rows, labels
        return classes, content

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """``train``, and the test images as ``val``."""
        classes, content = self._content
        test = self.version.test.removesuffix(".bin")
        train = [name for name in content if name != test]
        return {"train": _split(classes, content, train), "val": _split(classes, content, [test])}

    def read(self, name: str) -> bytes:
        """The image of that name as a PNG."""
        planes = self._pixels(name).reshape(3, SIDE, SIDE)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(buffer, "PNG")
        return buffer.getvalue()

    def _pixels(self, name: str) -> Rows:
        if self.held is not None:
            return self.held[name]
        file, _, row = name.rpartition("/")
        return self._content[1][file][0][int(row)]

    def only(self, names: Sequence[str]) -> CifarSource:
        """These images' pixels and nothing else: 3 MB for a shard of a thousand."""
        return replace(self, held={name: self._pixels(name) for name in names})

    def __getstate__(self) -> dict[str, object]:
        return {"version": self.version, "root": self.root, "held": self.held}


def is_cifar(root: Path) -> bool:
    """Whether a folder holds a CIFAR in any version, or is what one unpacks to."""
    return any(version.is_in(root) for version in VERSIONS)


def open_cifar(root: Path, val_share: float = 0.0, seed: int = 0) -> CifarSource:
    """Read a CIFAR.

    Args:
        root: holds the archive or the folder that it unpacks to, or is that folder.
        val_share: refused unless 0: the test images are ``val``.
        seed: of the share.

    Raises:
        DataPrepError: if it is damaged, or there are both CIFARs.
    """
    there = [version for version in VERSIONS if version.is_in(root)]
    titles = sorted({version.title for version in there})
    if len(titles) > 1:
        raise DataPrepError(f"{root}: holds {' and '.join(titles)}; put each into a folder of its own")
    source = CifarSource(there[0], root)
    set_aside_val(source.splits, val_share, seed, root)
    return source


def _class_names(version: Version, files: PublishedFiles) -> tuple[str, ...]:
    raw = files.require(version.meta)
    try:
        if version.label_bytes:
            names = tuple(raw.decode("ascii").split())
        else:
            listed = read_pickle(raw).get(f"{str(version.label).removesuffix('s')}_names")
            names = tuple(text(name) for name in listed) if isinstance(listed, list) else ()
    except (ForeignPickleError, UnicodeDecodeError) as error:
        raise files.refuse(version.meta, error) from None
    if not names:
        raise files.refuse(version.meta, "names no classes")
    return names


def _pickled(version: Version, files: PublishedFiles, name: str) -> tuple[Rows, Labels]:
    """Pixels and labels of a file of the python version."""
    raw = files.require(name)
    try:
        content = read_pickle(raw)
        rows = pixel_rows(content.get("data"), _BYTES)
    except ForeignPickleError as error:
        raise files.refuse(name, error) from None
    labels = content.get(str(version.label))
    if not isinstance(labels, list) or any(type(label) is not int or abs(label) > 2**31 for label in labels):
        raise files.refuse(name, f"has no list of numbers as its {version.label}")
    if len(labels) != len(rows):
        raise files.refuse(name, f"holds {len(rows):,} images and {len(labels):,} labels")
    return rows, np.asarray(labels, dtype=np.int64)


def _records(version: Version, files: PublishedFiles, name: str) -> tuple[Rows, Labels]:
    """Pixels and labels of a file of the binary version."""
    raw, size = files.require(name), version.label_bytes + _BYTES
    if len(raw) % size:
        raise files.refuse(name, f"has {len(raw):,} bytes, no whole records of {size:,}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, size)
    return records[:, version.label_bytes :], records[:, int(version.label)].astype(np.int64)


def _split(classes: tuple[str, ...], content: Mapping[str, tuple[Rows, Labels]], files: Sequence[str]) -> Split:
    names = tuple(f"{file}/{row:05d}" for file in files for row in range(len(content[file][0])))
    return Split(classes, names, np.concatenate([content[file][1] for file in files]))
