"""Where images come from: a folder of images, or scikit-learn's digits.

A *source* has splits (train, val, …); a split is an ordered list of names with labels, and the source turns a name
into the bytes of an image file. The list alone decides what is written where, so it must come out the same on every
machine: names are sorted, and whatever is drawn is drawn from a frozen generator with a seed.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import DataPrepError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
SPLIT_FOLDERS = ("train", "val", "test")
DIGITS_VAL_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """One split of a source: what it holds, in a fixed order, but no image yet.

    Attributes:
        class_names: name of each label.
        names: one per image, unique; the source's `read` understands them.
        labels: ``(len(names),)`` int64, each in ``[0, len(class_names))``.
    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def subset(self, rows: npt.NDArray[np.int64]) -> Split:
        """The same classes with only the given rows, in the given order."""
        return Split(self.class_names, tuple(self.names[row] for row in rows), self.labels[rows])


class Source(Protocol):
    """What data preparation asks of a place that images come from. Sources must be picklable."""

    @property
    def kind(self) -> str:
        """Short name of the sort of source and what was chosen about it; part of the plan's identity."""

    @property
    def place(self) -> str:
        """Where it is, for people."""

    @property
    def remarks(self) -> Sequence[str]:
        """What the user should be told about how the source was understood."""

    @property
    def splits(self) -> Mapping[str, Split]:
        """The splits by name."""

    def read(self, name: str) -> bytes:
        """The encoded image of that name.

        Raises:
            OSError: if it cannot be read.
        """


def stratified_share(labels: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose about ``share`` of every class, at least one of a class with two or more, never all of it.

    Args:
        labels: ``(n,)``.
        share: between 0 and 1.
        seed: chooses which.

    Returns:
        ``(n,)`` mask of the chosen.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    # RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    generator = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(b"val-share")])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        chosen[generator.permutation(rows)[:count]] = True
    return chosen


@dataclass(frozen=True)
class DigitsSource:
    """scikit-learn's ``digits``: 1,797 real handwritten digits of 8×8 pixels, shipped with that package.

    They are enlarged (bicubic) and split 80/20 by class. No two of the 1,797 images are equal, which the constructor
    of the split checks: an image on both sides would make the accuracy a lie.

    Args:
        image_size: side of the written images in pixels.
        seed: chooses the split.
    """

    image_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 1024:
            raise DataPrepError(f"digits have 8×8 pixels; choose an image size from 8 to 1024, not {self.image_size}")

    @property
    def kind(self) -> str:
        """Name and choices."""
        return f"digits, {self.image_size} px, split seed {self.seed}"

    @property
    def place(self) -> str:
        """The package they come with."""
        return "sklearn.datasets.load_digits"

    @property
    def remarks(self) -> Sequence[str]:
        """Nothing to remark."""
        return ()

    @cached_property
    def _images(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """All images ``(1797, 8, 8)`` as grey values 0 … 255, and their labels."""
        from sklearn.datasets import load_digits  # noqa: PLC0415 - takes seconds to import

        bunch = load_digits()
        return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """``train`` and ``val``; equal images would all go to train."""
        images, labels = self._images
        is_val = stratified_share(labels, DIGITS_VAL_SHARE, self.seed)
        _, group = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
        is_val &= np.bincount(group)[group] == 1
        whole = Split(
            tuple(str(digit) for digit in range(10)), tuple(f"digits/{i:04d}" for i in range(len(labels))), labels
        )
        return {"train": whole.subset(np.flatnonzero(~is_val)), "val": whole.subset(np.flatnonzero(is_val))}

    def read(self, name: str) -> bytes:
        """The digit of that name, enlarged, as a JPEG."""
        digit = Image.fromarray(self._images[0][int(name.rpartition("/")[2])])
        big = digit.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC).convert("RGB")
        buffer = io.BytesIO()
        big.save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    def __getstate__(self) -> dict[str, object]:
        # The cached images are cheap to load again, and would otherwise travel with every shard to build.
        return {"image_size": self.image_size, "seed": self.seed}


@dataclass(frozen=True)
class FolderSource:
    """A folder of images: ``ROOT/train/CLASS/*.jpg``, ``ROOT/val/CLASS/*.jpg``, …, or ``ROOT/CLASS/*.jpg``.

    Classes are numbered in the order of their sorted names, as torchvision's ``ImageFolder`` does; images may lie in
    folders below their class's.

    Args:
        root: the folder.
        val_share: with a train split only, the share of it to set aside as ``val``; 0 for none.
        seed: chooses which images are set aside.

    Raises:
        DataPrepError: if the folder is missing, unreadable, empty, or its splits do not fit together.
    """

    root: Path
    val_share: float = 0.0
    seed: int = 0
    splits: Mapping[str, Split] = field(init=False, repr=False, compare=False)
    remarks: Sequence[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise DataPrepError(f"the share set aside for val must be at least 0 and below 1, got {self.val_share}")
        remarks: list[str] = []
        splits = self._find_splits(remarks)
        if self.val_share:
            splits = self._set_aside(splits, remarks)
        # The dataclass is frozen for its users; these two are part of its construction.
        object.__setattr__(self, "splits", splits)
        object.__setattr__(self, "remarks", tuple(remarks))

    @property
    def kind(self) -> str:
        """Name and choices."""
        return "folder" + (f", val share {self.val_share:g}, seed {self.seed}" if self.val_share else "")

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """The file of that name, untouched."""
        return (self.root / name).read_bytes()

    def __getstate__(self) -> dict[str, object]:
        # Workers get the names they need with each shard; a million of them need not travel each time.
        return {"root": self.root, "val_share": self.val_share, "seed": self.seed, "splits": {}, "remarks": ()}

    def _find_splits(self, remarks: list[str]) -> dict[str, Split]:
        folders = _folders(self.root)
        if "train" not in folders:
            if extra := [name for name in SPLIT_FOLDERS if name in folders]:
                raise DataPrepError(
                    f"{self.root} has a folder {extra[0]}/ but no train/; add train/CLASS/… or point at one split alone"
                )
            remarks.append(
                f"{self.root} has no train/ folder: its {len(folders)} folders are taken as the classes of train"
            )
            return {"train": _scan_split(self.root, self.root, folders, remarks)}
        present = [name for name in SPLIT_FOLDERS if name in folders]
        for name in sorted(set(folders) - set(present)):
            remarks.append(f"{self.root / name} is ignored: not one of {', '.join(SPLIT_FOLDERS)}")
        classes = _folders(self.root / "train")
        splits = {}
        for name in present:
            if extra := sorted(set(_folders(self.root / name)) - set(classes)):
                raise DataPrepError(
                    f"{self.root / name} has classes that train/ does not have: {_some(extra)}; the splits must agree"
                )
            splits[name] = _scan_split(self.root, self.root / name, classes, remarks)
        return splits

    def _set_aside(self, splits: dict[str, Split], remarks: list[str]) -> dict[str, Split]:
        if "val" in splits:
            raise DataPrepError(f"{self.root} has a val/ folder; a share of train/ cannot be set aside as val as well")
        train = splits["train"]
        is_val = stratified_share(train.labels, self.val_share, self.seed)
        remarks.append(f"{is_val.sum():,} of {len(is_val):,} training images are set aside as val (seed {self.seed})")
        rest = {name: split for name, split in splits.items() if name != "train"}
        return {"train": train.subset(np.flatnonzero(~is_val)), "val": train.subset(np.flatnonzero(is_val)), **rest}


def open_source(
    what: str | Path, *, image_size: int = 32, val_share: float = 0.0, seed: int = 0
) -> DigitsSource | FolderSource:
    """The source that a user means.

    Args:
        what: the word ``digits``, or a folder.
        image_size: for digits: side of the written images in pixels.
        val_share: for folders: share of train to set aside as val.
        seed: chooses what is set aside.

    Raises:
        DataPrepError: see `DigitsSource` and `FolderSource`.
    """
    if str(what) == "digits":
        return DigitsSource(image_size=image_size, seed=seed)
    return FolderSource(Path(what), val_share=val_share, seed=seed)


def _folders(parent: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    try:
        with os.scandir(parent) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        raise DataPrepError(f"{parent}: no such folder; give a folder of images, or the word digits") from None
    except NotADirectoryError:
        raise DataPrepError(f"{parent} is a file; give the folder that holds the classes' folders") from None
    except PermissionError:
        raise DataPrepError(f"{parent}: no permission to read it; ask its owner, or run as a user who may") from None


def _scan_split(root: Path, folder: Path, classes: Sequence[str], remarks: list[str]) -> Split:
    """List the images below ``folder/CLASS`` for each class."""
    names: list[str] = []
    labels: list[int] = []
    others = 0
    for label, class_name in enumerate(classes):
        before = len(names)
        for path in _files(folder / class_name):
            if path.lower().endswith(IMAGE_SUFFIXES):
                names.append(os.path.relpath(path, root))
            else:
                others += 1
        labels += [label] * (len(names) - before)
        if len(names) == before:
            remarks.append(f"{folder / class_name} holds no image")
    if others:
        remarks.append(f"{folder}: {others:,} files are ignored, as their names do not end like an image's")
    if not names:
        raise DataPrepError(
            f"{folder} holds no images; expected {folder}/CLASS/*.jpg (or {', '.join(IMAGE_SUFFIXES[1:])})"
        )
    return Split(tuple(classes), tuple(names), np.asarray(labels, dtype=np.int64))


def _files(folder: Path) -> Iterator[str]:
    """All files below a folder in sorted order, without hidden ones; nothing if the folder does not exist."""

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise DataPrepError(f"{error.filename}: no permission to read it; ask its owner, or leave it out") from None

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))  # noqa: PTH118


def _some(names: Sequence[str], most: int = 5) -> str:
    """A few names for an error message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
